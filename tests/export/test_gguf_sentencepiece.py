"""A tokenizer such as Gemma's, which SentencePiece has made, has the same tokens in llama.cpp."""

import json
from importlib.util import find_spec

import pytest

from mlx_dpo.demo.family_models import make_adapter, make_hub_model
from mlx_dpo.demo.tiny_models import GEMMA
from mlx_dpo.export.gguf import export_gguf
from mlx_dpo.models.load import load_tokenizer

from ..conftest import curated_rows
from ..support.export_content import TEXTS

pytestmark = pytest.mark.skipif(
    find_spec("gguf") is None or find_spec("xllamacpp") is None, reason="xllamacpp is not installed"
)


def write_sentencepiece(folder):
    """Replace a tokenizer by one with spaces as ▁ and bytes as tokens; the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = [*GEMMA.special[:3], "<unk>", *GEMMA.special[3:]]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if not t["content"].startswith("<0x")]
    # As Gemma's: text is split at spaces, which the normalizer has replaced, so that it is never split.
    content["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"String": " "},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"unk_token": "<unk>"}))
    return len(content["model"]["vocab"])


def test_llama_cpp_merges_by_our_scores_as_the_tokenizer_does_by_its_ranks(tmp_path, monkeypatch):
    from mlx_dpo.demo import family_models
    from mlx_dpo.export.prove_llama_cpp import DIFFICULT, check_template, check_tokens, llama_cpp

    monkeypatch.setattr(family_models, "write_tokenizer", lambda folder, *_: _both(folder))
    monkeypatch.setattr(family_models, "_split_by", lambda *_: None)
    base = make_hub_model(tmp_path / "base", "gemma3", TEXTS)
    file = export_gguf(str(base), make_adapter(base, tmp_path / "adapter"), tmp_path / "out", "q8_0")
    tokenizer = load_tokenizer(base)
    answers = [row["answer"] for row in curated_rows("curated.jsonl")[:60]]
    turn = "<start_of_turn>user\nHi<end_of_turn>\n"
    with llama_cpp(file, 64) as server:
        check_tokens(server, tokenizer, [*DIFFICULT, *TEXTS, *answers, turn], file)
        check_template(server, tokenizer, file)


def _both(folder):
    from mlx_dpo.demo.tiny_models import write_tokenizer

    write_tokenizer(folder, GEMMA, TEXTS, 512)
    return write_sentencepiece(folder)
