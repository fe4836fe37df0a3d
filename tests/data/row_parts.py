"""Parts of the rows that are written by hand: turns, answers, and records of some formats."""

from ..support.mistakes import chat

HOW = chat(("user", "How?"))
TWO = chat(("user", "Hi."), ("assistant", "Hello."), ("user", "How?"))
ASKED, TALK = ["user: How?"], ["user: Hi.", "assistant: Hello.", "user: How?"]


def says(text):
    return [{"role": "assistant", "content": text}]


def talk(*turns):
    return [{"from": speaker, "value": text} for speaker, text in turns]


def one(prompt=ASKED, chosen="So.", rejected="Thus."):
    return (prompt, chosen, rejected)


WHOLE = {"chosen": HOW + says("So."), "rejected": HOW + says("Thus.")}
LONG = {"chosen": TWO + says("So."), "rejected": TWO + says("Thus.")}
POST = {"id": "t3_1", "subreddit": "tifu", "title": "Keys", "post": "I lost them.\n\nTwice.", "site": None}
NEWS = {"id": "c1", "title": "Rain", "article": "It rained.", "site": "cnn", "subreddit": None, "post": None}


def tldr(info, first, second, choice):
    texts = [{"text": f" {text}", "policy": "sup1", "note": None} for text in (first, second)]
    more = {"worker": "w1", "batch": "batch3", "split": "train", "extra": {"confidence": 5}}
    return {"info": info, "summaries": texts, "choice": choice, **more}


def feedback(rating, **annotated):
    """An open-webui record: two models answered the second question, one answer was rated."""
    messages = {
        "u1": {"id": "u1", "parentId": None, "role": "user", "content": "Hi."},
        "a1": {"id": "a1", "parentId": "u1", "role": "assistant", "content": "Hello.", "model": "m"},
        "u2": {"id": "u2", "parentId": "a1", "role": "user", "content": "How?"},
        "x": {"id": "x", "parentId": "u2", "role": "assistant", "content": "So.", "model": "m"},
        "y": {"id": "y", "parentId": "u2", "role": "assistant", "content": "Thus.", "model": "n"},
    }
    for name, value in annotated.items():
        messages[name]["annotation"] = {"rating": value}
    history = {"messages": messages, "currentId": "x"}
    return {
        "id": f"f{rating}{annotated}",
        "user_id": "u",
        "version": 0,
        "type": "rating",
        "data": {"rating": rating, "model_id": "m", "sibling_model_ids": ["n"], "reason": "", "tags": []},
        "meta": {"model_id": "m", "message_id": "x", "message_index": 3, "chat_id": "c"},
        "snapshot": {"chat": {"id": "c", "title": "t", "chat": {"history": history, "models": ["m", "n"]}}},
        "created_at": 1704067200,
        "updated_at": 1704067200,
    }


def rated(text, score):
    notes = {"helpfulness": {"Rating": str(int(score)), "Rationale": "..."}}
    more = {"overall_score": 9.0, "critique": "...", "annotations": notes, "principle": "helpfulness"}
    return {"model": "alpaca-7b", "response": text, "fine-grained_score": score, **more}
