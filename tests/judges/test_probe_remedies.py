"""What the probe advises where a judge cannot be read: only what can help."""

import pytest

from mlx_dpo.chat_protocol import Reply
from mlx_dpo.judges.probe import probe

LETTERS = (("A", -0.1), ("B", -2.4))


def unreadable(finish_reason, letters):
    """A judge whose written replies are no verdict, and whose letters, if it gives any, are wrong."""

    def ask(request):
        return Reply(
            "Well.", finish_reason, LETTERS if letters and request.top_logprobs else (), "judge-1", 9, 2
        )

    return ask


@pytest.mark.parametrize(
    ("method", "finish_reason", "letters", "advised"),
    [
        ("auto", "stop", False, "choose another judge"),
        ("auto", "length", False, "try a larger judge.max_tokens, or choose another judge"),
        ("labels", "stop", False, "try judge.method=written, or choose another judge"),
        ("auto", "stop", True, "try judge.method=labels, or choose another judge"),
    ],
)
def test_a_probe_advises_only_what_the_judge_can_do(method, finish_reason, letters, advised):
    found = probe(unreadable(finish_reason, letters), method, 100, 0.1)
    assert found.fault.hint.startswith(f"{advised}, such as")
    assert found.fault.hint.endswith("--set judge.guard=warn goes on all the same")
