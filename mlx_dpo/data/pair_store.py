"""Tokenised pairs on the disk: made once per file, tokenizer and max_length, then read pair by pair."""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..console import progress
from ..errors import DpoError
from ..records import Preference
from ..storage.cache import Entry, content_hash, kept
from ..storage.reading import files_in
from .chat_template import render, template_hash
from .conversation_tokens import end_of_turn
from .lazy_sequence import Lazy
from .row_index import RowIndex
from .tokenize import RowTokenizer, TokenCounts, TokenizedPair

_VERSION = 6
"""Increase this number when the same rows give other tokens, or the files have another form."""

_ADVANCE = 64
"""Rows between two updates of the progress bar."""


class PairStore(Lazy[TokenizedPair]):
    """The kept pairs of a file, in order; the tokens of a pair are read from disk when they are needed.

    A pair takes 24 bytes of memory. Tokens are read, not mapped: pages of a mapped file count as memory of
    the program, and if a mapped file became shorter, the system would kill the program without a message.

        tokens   prompt, chosen, rejected of pair 0, then of pair 1, ...   int32
        sizes    how many of each                                          int32 (n, 3)
        rows     the number of each pair in the index                      int32 (n,)
    """

    def __init__(self, entry: Entry, index: RowIndex, key: dict[str, Any]):
        self.index, self.key = index, key
        self.counts = TokenCounts(**entry.facts)
        self.sizes = np.fromfile(entry.folder / "sizes", "<i4").reshape(-1, 3)
        self.content = hashlib.sha256(f"{entry.sums['sizes']} {entry.sums['tokens']}".encode()).hexdigest()
        self._rows = np.fromfile(entry.folder / "rows", "<i4")
        self._ends = np.cumsum(self.sizes.sum(axis=1, dtype=np.int64))
        self._file = open(entry.folder / "tokens", "rb", buffering=0)  # noqa: SIM115  (as long as the store)
        super().__init__(len(self.sizes), self._read)

    def _read(self, row: int) -> TokenizedPair:
        prompt, chosen, rejected = self.sizes[row].tolist()
        count = prompt + chosen + rejected
        content = os.pread(self._file.fileno(), 4 * count, 4 * (int(self._ends[row]) - count))
        if len(content) < 4 * count:
            raise DpoError(
                "became shorter while it was in use", where=self._file.name, hint="give the command again"
            )
        tokens = np.frombuffer(content, "<i4")
        return TokenizedPair(
            tokens[:prompt],
            tokens[prompt : prompt + chosen],
            tokens[prompt + chosen :],
            self.index.where(self._rows[row]),
        )

    @property
    def texts(self) -> Sequence[Preference]:
        """The pairs as text, each read from the file when it is needed."""
        return Lazy(len(self), lambda row: self.index.read(self._rows[row]))

    def __repr__(self) -> str:
        return f"<PairStore of {self.index.source.label}: {self.counts}>"


def open_pairs(index: RowIndex, tokenizer: Any, max_length: int) -> PairStore:
    """The tokenised pairs of a file: from the cache, or tokenised now in constant memory.

    Raises:
        DpoError: as `tokenize_pairs`; or the file changed while it was read, or the cache has no room.
    """
    key = {
        "rows": index.identity,
        **tokenizer_key(tokenizer),
        "max_length": max_length,
        "answers": index.answers,
        "embedded": getattr(tokenizer, "embedded_tokens", None),
        "version": _VERSION,
        **{name: version(name) for name in ("transformers", "tokenizers", "mlx-lm", "jinja2")},
        "mlx_dpo": __version__,
    }
    # Four bytes a token of four letters or so: about what the text takes.
    room = index.source.path.stat().st_size
    entry = kept(
        "pairs", key, lambda folder: _write(index, tokenizer, max_length, folder), index.source.label, room
    )
    return PairStore(entry, index, key)


def _write(index: RowIndex, tokenizer: Any, max_length: int, folder: Path) -> dict[str, Any]:
    """Tokenise pair by pair and write the columns; the counts."""
    work = RowTokenizer(tokenizer, max_length, answers=index.answers)
    with ExitStack() as stack:
        tokens, sizes, rows = (
            stack.enter_context(open(folder / name, "wb")) for name in ("tokens", "sizes", "rows")
        )
        advance = stack.enter_context(
            progress(f"tokenising {Path(index.source.label).name}", len(index), "rows")
        )
        # A file that grows meanwhile has more pairs than the index; check_unchanged then says so.
        for number, row in zip(range(len(index)), index.records(), strict=False):
            if pair := work.pair(row):
                parts = (pair.prompt, pair.chosen, pair.rejected)
                tokens.write(np.concatenate(parts, dtype="<i4").tobytes())
                sizes.write(np.array([len(part) for part in parts], "<i4").tobytes())
                rows.write(number.to_bytes(4, "little"))
            if (number + 1) % _ADVANCE == 0:
                advance(_ADVANCE)
    index.source.check_unchanged()
    return asdict(work.counts())


def tokenizer_key(tokenizer: Any) -> dict[str, str]:
    """What distinguishes tokenizers and templates, wherever their files are.

    `template` identifies the source of the template, `rendered` its output for three conversations: a
    template that prints today's date gives other tokens tomorrow, in training as in sampling.
    """
    end_of_turn(tokenizer)  # adds the template's end token to the tokenizer's
    return {
        "tokenizer": _digest(_vocabulary(tokenizer), _special(tokenizer)),
        "template": template_hash(tokenizer),
        "rendered": _digest(_rendered(tokenizer)),
    }


def _vocabulary(tokenizer: Any) -> str:
    """Everything that turns text to tokens: vocabulary, merges, normaliser, added tokens."""
    try:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
    except AttributeError:  # a tokenizer without the Rust library: its files and their names
        folder = Path(tokenizer.name_or_path)
        names = [f for f in files_in(folder, "*") if f.is_file() and f.suffix != ".safetensors"]
        return json.dumps([[f.name, content_hash(f)] for f in names])
    # Settings of the last call, not of the tokenizer.
    return json.dumps({k: v for k, v in content.items() if k not in ("truncation", "padding")})


def _special(tokenizer: Any) -> str:
    names = {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())}
    split = getattr(tokenizer, "split_special_tokens", False)
    return json.dumps(
        [names, sorted(tokenizer.eos_token_ids), bool(split), bool(tokenizer.has_chat_template)]
    )


def _rendered(tokenizer: Any) -> str:
    system, user, answer = ({"role": role, "content": role} for role in ("system", "user", "assistant"))
    texts = []
    for turns, asked in (([user], True), ([system, user], True), ([user, answer], False)):
        with suppress(DpoError):  # some templates accept no system turn
            texts.append(render(tokenizer, turns, generation_prompt=asked))
    return json.dumps(texts)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]
