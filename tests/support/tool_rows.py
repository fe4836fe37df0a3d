"""Rows with turns and tool calls, as parts of which to leave out."""

WHERE = "rows.jsonl:1"
PAIR = {"prompt": "Where?", "chosen": "In a jar.", "rejected": "No."}


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def calls(*calls):
    return PAIR | {"chosen": [assistant(None, tool_calls=[*calls])]}


def call(name="find", arguments=None, **more):
    return {"type": "function", "function": {"name": name, "arguments": arguments or {}, **more}}
