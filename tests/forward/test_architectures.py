"""What docs/architectures.md says is so, on the most different of mlx_lm's architectures."""

import re

import pytest

from ..conftest import ROOT
from ..long import check_architectures as check
from ..support import architecture_trial

PAGE = ROOT / "docs" / "architectures.md"
DIFFERENT = {
    "gemma3_text": "sliding windows, tied head",
    "gpt_oss": "sliding windows with sinks, experts",
    "deepseek_v3": "latent attention, experts",
    "llama4": "attention in chunks",
    "plamo": "blocks held by a module that is not called",
    "qwen3_next": "gated delta rule and attention",
    "falcon_h1": "Mamba-2 beside attention in every block",
    "mamba2": "no attention",
    "afm7": "blocks that read an earlier one's keys and values",
    "gemma4_text": "blocks that hand their keys and values on, with nothing of their own to remember",
    "kimi_k3": "residuals kept in an object that blocks change",
    "nanbeige": "every block runs twice",
    "longcat_flash_ngram": "token ids among what is remembered",
    "minimax_m3_vl": "keys without values",
    "rwkv7": "a recurrence in plain operations, blocks that hand over two arrays",
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_prompts_are_shared_exactly_on(name):
    """With and without checkpointed blocks."""
    result = architecture_trial.trial(name)
    assert (result.forward, result.checkpointed, result.wrong) == ("shared", "shared", "")


def test_a_forward_that_is_not_exact_is_found(monkeypatch):
    """A start-up check that would accept anything is told from one that proves."""
    exact = architecture_trial.SHARED
    inexact = exact._replace(score=lambda *args, **kwargs: 1.01 * exact.score(*args, **kwargs))
    monkeypatch.setattr(architecture_trial, "choose_forward", lambda *args: inexact)
    assert "scores differ by" in architecture_trial.trial("llama").wrong


def test_an_architecture_that_takes_too_long_has_no_result():
    (result,) = check.trials(["llama"], processes=1, seconds=0.01)
    assert result.wrong == "no result within 0 s"


def test_modules_that_define_no_architecture_are_left_out():
    names, helpers = check.architectures()
    assert {"llama", "qwen3_next", "gemma3_text"} <= set(names)
    assert {"base", "cache", "switch_layers"} <= set(helpers)


def test_the_page_is_what_the_script_writes_and_nothing_on_it_is_wrong():
    text = PAGE.read_text()
    assert "- wrong results: 0" in text
    results = [read_row(line) for line in text.splitlines() if line.startswith("| `")]
    helpers = int(re.search(r"\((\d+) modules of mlx_lm", text).group(1))
    versions = re.search(r"check_architectures.py`\n\((.*?)\)", text).group(1)
    assert check.page(results, helpers, versions) == text


def test_most_architectures_on_the_page_share_prompts():
    text = PAGE.read_text()
    assert int(re.search(r"shared: \d+ \((\d+)% of those built\)", text).group(1)) >= 80


def read_row(line):
    """A row of the table as the result it was written from."""
    name, memory, forward, checkpointed, scores, gradient, remark = line[2:-2].split(" | ")
    figures = {"scores": float(scores), "gradient": float(gradient)} if scores else {}
    return architecture_trial.Result(name.strip("`"), memory, forward, checkpointed, remark, **figures)
