"""Models and settings to plan with."""

import pytest

from mlx_dpo.config import load_config
from mlx_dpo.demo.tiny_models import make_model
from mlx_dpo.jobs.plan import plan_run


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Folder of a model by name and size, made when first asked for."""
    root = tmp_path_factory.mktemp("plan")
    texts = [f"word{i} and" for i in range(3000)]

    def get(name, layers=8, hidden=256, bits=None):
        path = root / f"{name}-{layers}-{hidden}-{bits}"
        if not path.exists():
            make_model(path, name, texts, hidden=hidden, layers=layers, vocab=4096, bits=bits)
        return path

    return get


@pytest.fixture
def configure(tmp_path, models, pair_rows, write_rows):
    """Settings for a run on six pairs, the first of which is long."""
    long = {**pair_rows[0], **{k: " ".join([pair_rows[0][k]] * 8) for k in ("prompt", "chosen", "rejected")}}

    def make(*overrides, model="llama"):
        return load_config(
            None,
            [
                f"model.path={models(model)}",
                f"data.train={write_rows('train.jsonl', [long, *pair_rows[1:6]])}",
                "data.valid=null",
                "adapter.rank=4",
                "training.epochs=1",
                f"run.output={tmp_path / 'run'}",
                *overrides,
            ],
        )

    return make


@pytest.fixture(scope="session")
def known_needs():
    return []


@pytest.fixture
def usual_needs(configure, known_needs):
    """What a run with the settings of `configure()` needs by layout."""
    if not known_needs:
        known_needs.append(dict(plan_run(configure()).needs))
    return known_needs[0]
