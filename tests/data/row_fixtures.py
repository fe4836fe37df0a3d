"""A row of every format that is known, written by hand in its shape, and what it becomes.

Each case: rows of one file, and the pairs (prompt turns as "role: text", chosen, rejected) that they give.
"""

import json

from .row_parts import ASKED, HOW, LONG, NEWS, POST, TALK, TWO, WHOLE, feedback, one, rated, says, talk, tldr

BEGUN = "\n\nHuman: Hi.\n\nAssistant:"
RANKED = "prompts with several scored answers"
HH, TLDR, SHP = "HH-RLHF transcripts", "TL;DR comparisons", "Stanford Human Preferences"
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
