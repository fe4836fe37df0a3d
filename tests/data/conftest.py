"""Tokenizers of four families."""

import json

import pytest

from mlx_dpo.demo.tiny_models import write_tokenizer

from ..support.family_prompts import FAMILIES, REAL


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A tokenizer folder by family, made when first asked for."""
    root = tmp_path_factory.mktemp("tokenizers")

    def get(name):
        folder = root / name
        if not folder.exists():
            folder.mkdir()
            write_tokenizer(folder, FAMILIES[name], REAL, 400)
            eos = FAMILIES[name].special.index(FAMILIES[name].end)
            (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": eos}))
        return folder

    return get


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param
