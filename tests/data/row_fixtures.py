"""A row of every format that is known, written by hand in its shape, and what it becomes.

Each case: rows of one file, and the pairs (prompt turns as "role: text", chosen, rejected) that they give.
"""

import json
from itertools import permutations, product

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


BEGUN = "\n\nHuman: Hi.\n\nAssistant:"
RANKED = "prompts with several scored answers"
PAIRS = {
    "HH-RLHF transcripts": (
        [
            {
                name: f"\n\nHuman: How?\n\nAssistant: {said}"
                for name, said in (("chosen", "So."), ("rejected", "Thus."))
            },
            {
                "chosen": "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: How?\n\nAssistant: So.\n\nHuman",
                "rejected": "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: How?\n\nAssistant: Thus.",
            },
            {
                "chosen": f"{BEGUN} Hel\n\nAssistant: lo.\n\nHuman: How?\n\nAssistant: So.",
                "rejected": f"{BEGUN} Hel\n\nAssistant: lo.\n\nHuman: How?\n\nAssistant: Thus.",
            },
        ],
        [one(), one(TALK, "So.\n\nHuman"), one(["user: Hi.", "assistant: Hel\n\nlo.", "user: How?"])],
    ),
    "HH-RLHF transcripts with separate answers": (
        [
            {
                "prompt": "\n\nHuman: How?\n\nAssistant:",
                "response": " So.",
                "chosen": " So.",
                "rejected": " Thus.",
            },
            {
                "prompt": "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: How?\n\nAssistant: ",
                "chosen": "So.",
                "rejected": "Thus.",
            },
        ],
        [one(), one(TALK)],
    ),
    "TL;DR comparisons": (
        [tldr(POST, "So.", "Thus.", 0), tldr(NEWS, "Thus.", "So.", 1)],
        [
            one(["user: SUBREDDIT: r/tifu\n\nTITLE: Keys\n\nPOST: I lost them.\nTwice.\n\nTL;DR:"]),
            one(["user: TITLE: Rain\n\nIt rained.\n\nTL;DR:"]),
        ],
    ),
    "UltraFeedback binarized": (
        [
            {"prompt": "How?", "prompt_id": "a1", **WHOLE, "messages": WHOLE["chosen"], "score_chosen": 8.0},
            {"prompt": "Hi.", "prompt_id": "a2", **LONG, "messages": LONG["chosen"], "score_rejected": 2.0},
        ],
        [one(), one(TALK)],
    ),
    "UltraFeedback binarized by Argilla": (
        [
            {
                **{"source": "evol_instruct", "prompt": "How?", **WHOLE},
                **{"chosen-rating": 5.0, "chosen-model": "m", "rejected-rating": 3.0, "rejected-model": "n"},
            }
        ],
        [one()],
    ),
    "Capybara conversations": (
        [
            {
                "source": "Airoboros",
                "conversation": [{"input": "Hi.", "output": "Hello."}, {"input": "How?", "output": "So."}],
                "original_response": "So.",
                "prompt": "Something else",
                "chosen": LONG["chosen"],
                "rejected": LONG["rejected"],
                "rating_chosen": 5,
                "rating_rejected": 3,
            }
        ],
        [one(TALK)],
    ),
    "ShareGPT conversations": (
        [
            {
                "chosen": talk(("system", "Be brief."), ("human", "How?"), ("gpt", "So.")),
                "rejected": talk(("system", "Be brief."), ("human", "How?"), ("gpt", "Thus.")),
            }
        ],
        [one(["system: Be brief.", "user: How?"])],
    ),
    "ShareGPT pairs": (
        [
            {
                "conversations": talk(("human", "Hi."), ("gpt", "Hello."), ("human", "How?")),
                "chosen": {"from": "gpt", "value": "So."},
                "rejected": {"from": "gpt", "value": "Thus."},
            },
            {
                "conversations": talk(("human", "How?")),
                "chosen": "So.",
                "rejected": "Thus.",
                "system": "Be brief.",
            },
        ],
        [one(TALK), one(["system: Be brief.", "user: How?"])],
    ),
    "axolotl pairs": (
        [
            {"messages": TWO, "chosen": says("So.")[0], "rejected": says("Thus.")[0]},
            {"messages": HOW, "chosen": "So.", "rejected": "Thus."},
        ],
        [one(TALK), one()],
    ),
    "ms-swift pairs": ([{"messages": LONG["chosen"], "rejected_response": "Thus."}], [one(TALK)]),
    "OpenAI preferences": (
        [
            {
                "input": {"messages": TWO, "tools": [], "parallel_tool_calls": True},
                "preferred_output": says("So."),
                "non_preferred_output": says("Thus."),
            }
        ],
        [one(TALK)],
    ),
    "distilabel Orca pairs": (
        [
            {
                **{
                    "system": "",
                    "input": "How?",
                    "chosen": "So.",
                    "rejected": "Thus.",
                    "status": "unchanged",
                },
                **{
                    "generations": ["So.", "Thus."],
                    "order": ["A", "B"],
                    "rating": [9.0, 8.0],
                    "chosen_score": 9.0,
                },
                **{"labelling_model": "gpt-4", "rationale": "...", "in_gsm8k_train": False},
            },
            {
                "system": "Be brief.",
                "input": "How?",
                "chosen": "So.",
                "rejected": "Thus.",
                "status": "swapped",
            },
        ],
        [one(), one(["system: Be brief.", "user: How?"])],
    ),
    "instructions with two answers": (
        [
            {"instruction": "Translate.", "input": "Wie?", "chosen": "So.", "rejected": "Thus."},
            {
                "instruction": "How?",
                "input": "",
                "chosen": "So.",
                "rejected": "Thus.",
                "history": [["Hi.", "Hello."]],
            },
        ],
        [one(["user: Translate.\n\nWie?"]), one(TALK)],
    ),
    "pairs with chosen_response and rejected_response": (
        [
            {
                **{"instruction": "How?", "chosen_response": "So.", "rejected_response": "Thus."},
                **{"metadata": "{}", "chosen_rating": 5.0, "rejected_rating": 3.0},
            },
            {"prompt": "How?", "chosen_response": "So.", "rejected_response": "Thus."},
            {"question": "How?", "input": "Hm", "chosen_response": "So.", "rejected_response": "Thus."},
        ],
        [one(), one(), one(["user: How?\n\nHm"])],
    ),
    "Stack Exchange pairs": (
        [{"qid": 1, "question": "How?", "response_j": "So.", "response_k": "Thus.", "date": "2020"}],
        [one()],
    ),
    "pairs without a prompt": (
        [
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            {"chosen": "How?\nSo it is.", "rejected": "How?\nSonnets."},
        ],
        [one(["user: The sky is"], "blue.", "green."), one(ASKED, "So it is.", "Sonnets.")],
    ),
    RANKED: (
        [
            {
                "source": "evol",
                "instruction": "How?",
                "models": ["a", "b", "c", "d"],
                "completions": [
                    rated("Thus.", 3.0),
                    rated("So.", 4.75),
                    rated("No.", 2.0),
                    rated("Yes.", 4.75),
                ],
            },
            {
                "prompt": "\n\nHuman: How?\n\nAssistant: ",
                "answers": [
                    {"answer": "So.", "model": "gpt-4", "rank": 1.0},
                    {"answer": "Thus.", "model": "llama", "rank": 2.0},
                    {"answer": "No.", "model": "koala", "rank": 7.0},
                ],
                **{"turns": 1, "num_responses": 3, "source": ["anthropic-hh"], "good_natured": True},
            },
            {"prompt": HOW, "responses": ["Thus.", "So."], "scores": [0.2, 0.9]},
            {"prompt": "How?", "completions": ["So.", "Thus.", "?"], "ranks": [1, 2, None]},
        ],
        [one(), one(rejected="No."), one(), one(rejected="No."), one(), one()],
    ),
    "open-webui feedback": (
        [feedback(1), feedback(-1), feedback(1, y=-1)],
        [one(TALK), one(TALK, "Thus.", "So."), one(TALK)],
    ),
    "Stanford Human Preferences": (
        [
            {"post_id": "a", "history": "How?", "human_ref_A": "So.", "human_ref_B": "Thus.", "labels": 1},
            {"post_id": "b", "history": "How?", "human_ref_A": "Thus.", "human_ref_B": "So.", "labels": 0},
        ],
        [one(), one()],
    ),
    "PKU-SafeRLHF": (
        [
            {
                **{"prompt": "How?", "response_0": "Thus.", "response_1": "So.", "is_response_0_safe": True},
                **{"better_response_id": 1, "safer_response_id": 0},
            }
        ],
        [one()],
    ),
    "Chatbot Arena battles": (
        [
            {
                **{
                    "question_id": "q",
                    "model_a": "a",
                    "model_b": "b",
                    "winner": "model_b",
                    "language": "English",
                },
                **{"conversation_a": HOW + says("Thus."), "conversation_b": HOW + says("So."), "turn": 1},
            }
        ],
        [one()],
    ),
    "Chatbot Arena votes": (
        [
            {
                **{"id": 30192, "model_a": "a", "model_b": "b", "prompt": '["How?"]'},
                **{"response_a": '["So."]', "response_b": '["Thus."]'},
                **{"winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0},
            }
        ],
        [one()],
    ),
    "PandaLM votes": (
        [
            {
                **{
                    "idx": 0,
                    "motivation_app": "x",
                    "cmp_key": "a_b",
                    "instruction": "Translate.",
                    "input": "Wie?",
                },
                **{
                    "response1": "Thus.",
                    "response2": "So.",
                    "annotator1": 2,
                    "annotator2": 1,
                    "annotator3": 2,
                },
            }
        ],
        [one(["user: Translate.\n\nWie?"])],
    ),
}
"""By the name of the format."""

ANSWERS = {
    "Alpaca rows": (
        [
            {"instruction": "Translate.", "input": "Wie?", "output": "How?", "text": "Below is ..."},
            {"instruction": "How?", "input": "", "output": "So."},
        ],
        [(["user: Translate.\n\nWie?"], "How?"), (ASKED, "So.")],
    ),
    "ShareGPT conversations with one answer": (
        [
            {
                "id": "x_0",
                "conversations": talk(("human", "Hi."), ("gpt", "Hello."), ("human", "How?"), ("gpt", "So.")),
            }
        ],
        [(TALK, "So.")],
    ),
    "instructions with a response": (
        [{"instruction": "How?", "context": "A kettle.", "response": "So.", "category": "closed_qa"}],
        [(["user: How?\n\nA kettle."], "So.")],
    ),
}

OWN = {
    "Intel orca": ([{"system": "", "question": "How?", "chosen": "So.", "rejected": "Thus."}], [one()]),
    "Intel orca with a system turn": (
        [{"system": "Be brief.", "question": "How?", "chosen": "So.", "rejected": "Thus."}],
        [one(["system: Be brief.", "user: How?"])],
    ),
    "TRL standard": ([{"prompt": "How?", "chosen": "So.", "rejected": "Thus."}], [one()]),
    "TRL conversational": ([{"prompt": TWO, "chosen": says("So."), "rejected": says("Thus.")}], [one(TALK)]),
    "TRL with an implicit prompt, dpo-mix": (
        [{"dataset": "d", **LONG, "chosen_rating": 5, "rejected_rating": 3}],
        [one(TALK)],
    ),
    "content parts": (
        [
            {
                "prompt": [{"role": "user", "content": [{"type": "text", "text": "How?"}]}],
                "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "So."}]}],
                "rejected": "Thus.",
            }
        ],
        [one()],
    ),
}
"""Our own form, as other tools write it."""

PROMPTFOO = {
    "evalId": "eval-x",
    "results": {
        "version": 3,
        "timestamp": "2026-01-01T00:00:00Z",
        "prompts": [{"raw": "{{q}}", "label": "{{q}}", "provider": "a", "metrics": {"score": 1}}],
        "results": [
            {
                "promptIdx": number % 2,
                "testIdx": number // 2,
                "prompt": {"raw": raw, "label": "{{q}}"},
                "vars": {"q": "How?"},
                "response": {"output": output, "tokenUsage": {}},
                "success": score > 0.5,
                "score": score,
                "gradingResult": {
                    "pass": score > 0.5,
                    "score": score,
                    "reason": "...",
                    "componentResults": [],
                },
            }
            for number, (raw, output, score) in enumerate(
                [
                    ("How?", "Thus.", 0),
                    ("How?", "So.", 1),
                    (json.dumps(TWO), "So.", 0.9),
                    (json.dumps(TWO), "Thus.", 0.1),
                ]
            )
        ],
        "stats": {"successes": 2, "failures": 2},
    },
    "config": {"description": "..."},
    "shareableUrl": None,
}
PROMPTFOO_PAIRS = [one(), one(TALK)]

NO_PAIR = {
    "an HH row with an empty last turn": (
        PAIRS["HH-RLHF transcripts"][0][0],
        {"chosen": "\n\nHuman: How?\n\nAssistant:", "rejected": "\n\nHuman: How?\n\nAssistant: Thus."},
        "an answer is empty",
    ),
    "HH transcripts that differ earlier": (
        PAIRS["HH-RLHF transcripts"][0][0],
        {"chosen": "\n\nHuman: How?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: Thus."},
        "the conversations differ before the last answer",
    ),
    "a tie of Argilla's": (
        PAIRS["distilabel Orca pairs"][0][0],
        {"input": "How?", "chosen": "So.", "rejected": "Thus.", "status": "tie"},
        "a tie",
    ),
    "equal scores": (
        PAIRS[RANKED][0][2],
        {"prompt": "How?", "responses": ["So.", "Thus."], "scores": [3, 3]},
        "no two answers with different scores",
    ),
    "a tie in the arena": (
        PAIRS["Chatbot Arena battles"][0][0],
        {**PAIRS["Chatbot Arena battles"][0][0], "winner": "tie (bothbad)"},
        "a tie",
    ),
    "votes without a majority": (
        PAIRS["PandaLM votes"][0][0],
        {**PAIRS["PandaLM votes"][0][0], "annotator2": 0, "annotator1": 1},
        "a tie",
    ),
    "a summary of nothing": (
        PAIRS["TL;DR comparisons"][0][0],
        tldr({**NEWS, "article": None}, "So.", "Thus.", 0),
        "neither a post nor an article",
    ),
    "a thumb without another answer": (
        PAIRS["open-webui feedback"][0][0],
        {**feedback(1), "meta": {"message_id": "a1"}},
        "one rated answer, without another answer to the same message",
    ),
}
"""A row that gives a pair, a row of the same format that gives none, and the reason."""

CALL = {"type": "function", "function": {"name": "find", "arguments": {"q": "flour"}}}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
WHERE = chat(("user", "Where?"))
PROMPT_KINDS = {
    "one turn": WHERE,
    "system": chat(("system", "Be kind."), ("user", "Where?")),
    "tools": [
        *chat(("user", "Look.")),
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "the jar", "name": "find"},
    ],
    "earlier reasoning": chat(
        ("user", "Hi."), ("assistant", "<think>\nHm.\n</think>\n\nHello."), ("user", "Where?")
    ),
}
ANSWER_KINDS = {
    "plain": says("No."),
    "reasoned": says("<think>\nDamp spoils it.\n</think>\n\nIn a jar."),
    "reasoned in a field": [
        {"role": "assistant", "content": "In a jar.", "reasoning_content": "Damp spoils it."}
    ],
    "reasoned from the start": says("Damp spoils it.\n</think>\n\nIn a jar."),
    "call": [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
}
THINKING = {
    (asked, first, second): {
        "prompt": PROMPT_KINDS[asked],
        "chosen": ANSWER_KINDS[first],
        "rejected": ANSWER_KINDS[second],
        **({"tools": TOOLS} if asked == "tools" else {}),
    }
    for asked, (first, second) in product(PROMPT_KINDS, permutations(ANSWER_KINDS, 2))
}
"""Prompts with system, tool and think turns, each with every two answers that reason, call, or do neither."""
