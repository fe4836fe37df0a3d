"""Curated rows to preference pairs: the base model's own answer is the rejected one."""

import contextlib
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from ..console import progress, say
from ..data.alike import alike, normalised
from ..data.splits import prompt_key, valid_prompts
from ..data.templates import end_of_turn, prompt_tokens, template_hash
from ..data.tokenize import prompts_too_long
from ..errors import DpoError
from ..files import sync, unwritable, write_text
from ..jsonl import read_jsonl, write_jsonl
from ..models.generate import Answer, GenerateConfig, generate_answers
from ..models.load import ModelConfig, fingerprint
from ..records import Curated
from ..settings import setting

COMPLETIONS, SETTINGS = "completions.jsonl", "completions.json"


@dataclass(frozen=True)
class PairsConfig:
    """How curated answers become pairs."""

    source: str = setting("data/curated.jsonl", "curated rows; their answers become the chosen ones")
    valid_source: str | None = setting(
        None, "curated rows for the held-out pairs; null takes valid_fraction of source instead"
    )
    output: str = setting("data/pairs", "folder of train.jsonl and valid.jsonl")
    limit: int | None = setting(None, "use only the first so many rows of each source; null uses all")
    valid_fraction: float = setting(0.1, "share of the prompts held out as valid.jsonl")
    max_similarity: float = setting(
        0.95, "drop pairs whose answers are this alike, 0 to 1; there is nothing to prefer in them"
    )
    keep_capped: bool = setting(
        False, "keep answers that max_tokens cut off; they end in mid-sentence, which is easy to tell apart"
    )

    def __post_init__(self):
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")
        if not 0 <= self.valid_fraction < 1:
            raise ValueError(f"valid_fraction must be in [0, 1), got {self.valid_fraction}")
        if not 0 < self.max_similarity <= 1:
            raise ValueError(f"max_similarity must be above 0 and at most 1, got {self.max_similarity}")


@dataclass(frozen=True)
class PairCounts:
    """What became of the curated rows."""

    rows: int
    train: int
    valid: int
    dropped: dict[str, int]

    def __str__(self) -> str:
        text = f"{self.rows:,} rows: {self.train:,} train and {self.valid:,} valid pairs"
        lost = ", ".join(f"{n:,} {reason}" for reason, n in self.dropped.items() if n)
        return f"{text}; dropped {lost}" if lost else f"{text}; none dropped"


def split_rows(
    rows: Sequence[Curated], valid_rows: Sequence[Curated] | None, fraction: float, seed: int
) -> list[tuple[str, Curated]]:
    """Name each row's file, train or valid, so that no prompt is in both.

    With `valid_rows` a prompt that stands in both sources belongs to valid and leaves train.
    """
    if valid_rows is None:
        held = valid_prompts([row.prompt for row in rows], fraction, seed)
        return [("valid" if prompt_key(row.prompt) in held else "train", row) for row in rows]
    held = {prompt_key(row.prompt) for row in valid_rows}
    return [("train", row) for row in rows if prompt_key(row.prompt) not in held] + [
        ("valid", row) for row in valid_rows
    ]


def request_key(row: Curated) -> str:
    """The name a prompt's answer is kept under: 16 hex digits of its messages.

    Not of its tokens: some templates print the date, and the answers of yesterday are kept.
    """
    return hashlib.sha256(json.dumps(row.prompt, sort_keys=True).encode()).hexdigest()[:16]


def tokenize_prompts(rows: Sequence[Curated], tokenizer: Any, max_length: int) -> dict[str, list[int]]:
    """Prompt tokens by request key: rows with the same prompt share one answer.

    Raises:
        DpoError: prompts that leave no room for an answer, the first ten named.
    """
    end_of_turn(tokenizer)
    requests, too_long = {}, []
    for row in rows:
        try:
            tokens = prompt_tokens(tokenizer, row.prompt)
        except DpoError as error:
            raise DpoError(error.what, where=row.where, hint=error.hint) from None
        if len(tokens) + 2 > max_length:
            too_long.append((row.where, len(tokens)))
        requests[request_key(row)] = tokens
    if too_long:
        raise prompts_too_long(too_long, max_length)
    return requests


def answer_missing(
    model: Any,
    tokenizer: Any,
    wanted: dict[str, list[int]],
    output: Path,
    config: GenerateConfig,
    origin: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """Answer every wanted prompt that has no answer in `output` yet; return all answers by request key.

    Each answer is appended to completions.jsonl, one whole line at a time, as soon as it ends. A line that a
    kill cut short is removed at the next start. `origin` (model, template, settings) is kept beside it, for
    `check_origin`.

    Raises:
        DpoError: another process at work in the same folder, or no room to write.
    """
    if not (output / SETTINGS).exists():
        write_text(output / SETTINGS, json.dumps(origin, indent=1) + "\n")
    with _locked(output / COMPLETIONS) as file:
        done = {row["key"]: row for _, row in read_jsonl(output / COMPLETIONS)}
        missing = [key for key in wanted if key not in done]
        if len(missing) < len(wanted):
            say(f"{len(wanted) - len(missing)} of {len(wanted)} prompts are answered already: going on")
        written, start = 0, time.monotonic()
        streams = [int(key, 16) for key in missing]
        with progress("answering", len(wanted), "prompts", len(wanted) - len(missing)) as advance:
            answers = generate_answers(model, tokenizer, [wanted[k] for k in missing], config, streams)
            try:
                for answer in answers:
                    row = _completion_row(missing[answer.index], answer)
                    _append(file, row, output / COMPLETIONS)
                    done[row["key"]] = row
                    written += answer.tokens
                    advance(1, f"{written / (time.monotonic() - start):,.0f} tokens/s")
            except KeyboardInterrupt:
                say(f"interrupted: {len(done)} answers are kept; the same command goes on from here")
                raise
        os.fsync(file.fileno())
    return done


def _append(file: IO[bytes], row: dict[str, Any], path: Path) -> None:
    line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
    try:
        while line:
            line = line[file.write(line) :]
    except OSError as error:
        raise unwritable(path, error) from None


def _completion_row(key: str, answer: Answer) -> dict[str, Any]:
    return {"key": key, "text": answer.text, "tokens": answer.tokens, "capped": answer.capped}


def check_origin(output: Path, origin: dict[str, Any]) -> None:
    """Check that what `output` holds already may be gone on with.

    Raises:
        DpoError: answers of another origin, or files of these names that gen-pairs did not make.
    """
    path = output / SETTINGS
    if not path.exists():
        foreign = [n for n in (COMPLETIONS, "train.jsonl", "valid.jsonl") if (output / n).exists()]
        if foreign:
            raise DpoError(
                f"holds {', '.join(foreign)}, and gen-pairs did not write it",
                where=output,
                hint="choose another folder with --output, so that nothing of yours is replaced",
            )
        return
    try:
        old = json.loads(path.read_text())
    except json.JSONDecodeError:
        old = None
    if not isinstance(old, dict):
        raise DpoError("is damaged", where=path, hint=f"delete the folder {output} to start over")
    # The same model may lie elsewhere today, and another one at the same place.
    compared = {"fingerprint": "model", "template": "template", "generate": "generate"}
    different = [word for key, word in compared.items() if old.get(key) != origin[key]]
    if "generate" in different:
        was, now = old.get("generate") or {}, origin["generate"]
        names = [f"generate.{name} (was {was.get(name)})" for name in now if was.get(name) != now[name]]
        different = [*different[:-1], *(names or ["generate"])]
    if different:
        raise DpoError(
            f"holds answers made with another {', '.join(different)}",
            where=output,
            hint="choose another pairs.output, or delete this folder to start over",
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """Open for appending, alone, after cutting off a half-written last line."""
    import fcntl

    try:
        # Without a buffer: what a full disk refused must not be tried again when the file is closed.
        file = open(path, "ab", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise unwritable(path, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DpoError(
                "another gen-pairs is at work here", where=path.parent, hint="wait for it, or stop it"
            ) from None
        whole = path.read_bytes()
        file.truncate(whole.rfind(b"\n") + 1)
        sync(path)
        yield file


def make_pairs(
    rows: Sequence[Curated],
    valid_rows: Sequence[Curated] | None,
    answers: dict[str, dict[str, Any]],
    config: PairsConfig,
    origin: dict[str, Any],
    seed: int,
) -> tuple[dict[str, list[dict[str, Any]]], PairCounts]:
    """Apply the rules, then split what is left: rows of both files in the source's order, and the counts."""
    files: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    dropped: Counter[str] = Counter()

    def kept(row: Curated) -> bool:
        answer = answers[request_key(row)]
        reason = drop_reason(row.answer, answer["text"], answer["capped"], config)
        dropped.update([reason] if reason else [])
        return not reason

    usable = [row for row in rows if kept(row)]
    held = None if valid_rows is None else [row for row in valid_rows if kept(row)]
    for name, row in split_rows(usable, held, config.valid_fraction, seed):
        answer = answers[request_key(row)]
        files[name].append(
            {
                "id": row.id,
                "prompt": _plain_prompt(row),
                "chosen": row.answer,
                "rejected": answer["text"],
                "meta": {**origin, "capped": answer["capped"]},
            }
        )
    total = len(rows) + len(valid_rows or [])
    return files, PairCounts(total, len(files["train"]), len(files["valid"]), dict(dropped))


def drop_reason(chosen: str, rejected: str, capped: bool, config: PairsConfig) -> str | None:
    """Why a pair is not used: an empty, cut-off, identical or near-identical answer; None keeps it."""
    if not rejected.strip():
        return "empty"
    if capped and not config.keep_capped:
        return "cut off by max_tokens"
    if normalised(chosen) == normalised(rejected):
        return "identical"
    if alike(chosen, rejected, config.max_similarity):
        return "near-identical"
    return None


def _plain_prompt(row: Curated) -> str | list[dict[str, str]]:
    if len(row.prompt) == 1:
        return row.prompt[0]["content"]
    return list(row.prompt)


def write_pairs(files: dict[str, list[dict[str, Any]]], counts: PairCounts, output: Path) -> None:
    """Write train.jsonl and valid.jsonl, each whole.

    Raises:
        DpoError: no training pair is left.
    """
    if not files["train"]:
        raise DpoError(
            f"no pair is left to train on ({counts})",
            where=output,
            hint="if answers are cut off, raise generate.max_tokens and choose another pairs.output",
        )
    for name, rows in files.items():
        write_jsonl(output / f"{name}.jsonl", rows)


def pairs_origin(model: ModelConfig, base: Path, tokenizer: Any, config: GenerateConfig) -> dict[str, Any]:
    """What answers depend on besides the prompt, kept in every pair's meta.

    The fingerprint is of the content of model and adapter, the names are for people.
    """
    folders = [base, Path(model.adapter)] if model.adapter else [base]
    return {
        "model": model.path,
        "adapter": model.adapter,
        "fingerprint": fingerprint(*folders),
        "template": template_hash(tokenizer),
        "generate": {k: v for k, v in asdict(config).items() if k != "batch_size"},
    }
