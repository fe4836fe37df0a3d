"""scripts/check_exports.py: what it finds wrong, and the block that it writes into the page."""

import runpy
from types import SimpleNamespace

import pytest

from mlx_dpo.errors import DpoError

from ..conftest import ROOT

script = SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "check_exports.py")))


def row(kind="hf", difference=2e-6, **more):
    found = {"family": "llama", "adapter": "lora", "kind": kind, "texts": 250, "difference": difference}
    return found | {"greedy": 32, "strings": 250, "template": True} | more


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        (row(), []),
        (row(difference=2e-4), ["differs by 2.0e-04 nats, more than 0.0001"]),
        (row(difference=float("nan")), ["differs by nan nats, more than 0.0001"]),
        (row(greedy=7, lead=0.5), ["only the first 7 greedy tokens are the same"]),
        (row(greedy=7, lead=1e-5), []),  # two tokens are equally likely
        (row(kind="gguf q8_0", difference=0.1, greedy=7, lead=0.5), []),
        (row(strings=248, template=False), ["2 texts have other tokens", "the chat template renders"]),
        ({**row(), "same bits": 30, "tensors": 33, "last place": 2}, ["1 of 33 tensors have other bits"]),
        ({**row(), "same bits": 1, "tensors": 1, "other fields": ["a.b"]}, ["other fields: a.b"]),
    ],
)
def test_what_is_wrong_in_a_row_is_told(figures, told):
    found = script.wrong("llama", figures)
    assert len(found) == len(told) and all(map(str.startswith, found, told))


@pytest.mark.parametrize(
    ("family", "adapter", "kind", "told"),
    [
        ("gemma2", "lora", "gguf f32", 0),
        ("gemma2", "lora", "gguf q8_0", 1),
        ("hybrid-moe", "lora", "peft", 0),
        ("hybrid-moe", "lora", "gguf-lora", 0),
        ("llama", "dora", "gguf-lora", 0),
        ("llama", "lora", "gguf-lora", 1),
        ("llama", "lora", "peft", 1),
        ("llama", "dora", "peft, trained there", 1),
        ("qwen2", "lora", "gguf f32", 1),
    ],
)
def test_only_what_a_program_does_not_have_may_be_refused(family, adapter, kind, told):
    refused = {"family": family, "adapter": adapter, "kind": kind, "texts": 250, "refused": "why"}
    assert script.wrong(family, refused) == ["refused: why"] * told


def test_a_measure_that_is_missing_is_wrong():
    figures = row()
    del figures["difference"]
    assert script.wrong("llama", figures) == ["differs by nan nats, more than 0.0001"]


def test_a_refusal_is_a_row_of_its_own_export(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import export_measures

    def refuses(case):
        raise DpoError("why", where="here")

    found = [export_measures._row_or_refusal(kind, refuses, None) for kind in ("peft", "peft, trained there")]
    assert found == [{"kind": kind, "refused": "why"} for kind in ("peft", "peft, trained there")]


def test_gemma_in_llama_cpp_has_a_limit_of_its_own():
    assert script.wrong("gemma3", row("gguf f32", 2e-3)) == []
    assert script.wrong("gemma3", row("hf", 2e-3)) and script.wrong("gemma3", row("gguf f32", 6e-3))


def test_only_the_block_of_the_page_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{script.FROM}\nold\n{script.TO}\nafter\n<!-- to here -->\n")
    rows = [row(), row("gguf q8_0", 0.12, greedy=3, lead=1.0), {**row("peft"), "same bits": 8, "tensors": 8}]
    rows.append({"family": "llama", "adapter": "dora", "kind": "gguf q8_0", "texts": 250, "refused": "why"})
    script.write_section(page, {"rows": rows, "versions": {"mlx": "1"}, "converter": "a converter"})
    text = page.read_text()
    assert text.startswith(f"before\n{script.FROM}\n\n|  | hf | gguf q8_0 | peft |\n")
    assert "| llama, LoRA | 2e-06 | 0.12 (3) | 2e-06 |" in text and "| llama, DoRA |  | refused |  |" in text
    assert "8 of 8 tensors" in text and "the same tokens for all 250 texts" in text
    assert text.endswith(f"{script.TO}\nafter\n<!-- to here -->\n") and "old" not in text
