"""Settings that nobody would write: each is taken, or refused quickly, in few words and with a remedy."""

import time

from mlx_dpo.config import load_config
from mlx_dpo.errors import DpoError
from mlx_dpo.settings import as_plain, build, to_yaml
from mlx_dpo.settings_file import read_yaml

from . import CASES
from .generate_settings import assignments, texts

_SECONDS = 1.0
_LETTERS = 600


def fault(load, again):
    """What is wrong with how `load` ends: it should give settings that a file keeps, or a good message."""
    start = time.process_time()
    try:
        config = load()
    except DpoError as error:
        message = str(error)
        if not error.hint.strip():
            return f"no remedy: {message}"
        if len(message) > _LETTERS:
            return f"{len(message)} letters: {message[:_LETTERS]}"
        if not message.replace("\n", " ").isprintable() or message.count("\n") != 1:
            return f"not printable on two lines: {message!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        again.write_text(to_yaml(as_plain(config)))
        if build(type(config), read_yaml(again)) != config:
            return "other settings when written and read again"
    taken = time.process_time() - start
    return f"{taken:.1f} s" if taken > _SECONDS else None


def test_a_settings_file_is_taken_or_refused_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, again, faults, taken = tmp_path / "run.yaml", tmp_path / "again.yaml", [], 0
    for number, content in enumerate(texts(0, CASES)):
        path.write_bytes(content)
        wrong = fault(lambda: load_config("run.yaml"), again)
        faults += [f"{number}: {wrong}: {content[:80]!r}"] if wrong else []
        taken += again.exists()
        again.unlink(missing_ok=True)
    assert faults == []
    assert CASES / 40 < taken < CASES / 2  # the generator makes both


def test_an_override_is_taken_or_refused_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    again, faults, taken = tmp_path / "again.yaml", [], 0
    for number, some in enumerate(assignments(0, CASES)):
        wrong = fault(lambda some=some: load_config(None, some), again)
        faults += [f"{number}: {wrong}: {str(some)[:80]}"] if wrong else []
        taken += again.exists()
        again.unlink(missing_ok=True)
    assert faults == []
    assert CASES / 40 < taken < CASES / 2
