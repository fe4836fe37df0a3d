"""Pairs on the disk are the pairs of the file: the same tokens, made once, in little memory."""

import hashlib
import json
import os
import shutil
import tracemalloc

import numpy as np
import pytest

from mlx_dpo.data import own_format
from mlx_dpo.data import pair_store as store_module
from mlx_dpo.data import row_index as index_module
from mlx_dpo.data.batches import epoch_windows, micro_batches
from mlx_dpo.data.pair_store import open_pairs, tokenizer_key
from mlx_dpo.data.row_index import index_rows, shared_prompts
from mlx_dpo.data.sources import read_pairs
from mlx_dpo.data.splits import prompt_key
from mlx_dpo.data.tokenize import TokenizedPair, pair_lengths, pair_sizes, tokenize_pairs
from mlx_dpo.demo.tiny_models import GRANITE, write_tokenizer
from mlx_dpo.models.load import load_tokenizer
from mlx_dpo.storage import checksummed_folder as sealed_module

from ..support.mistakes import lines, pair
from ..support.runs import tokens_of

MAX_LENGTH = 120


# ---- what is in it


def test_a_store_holds_what_tokenising_gives(mixed_file, tokenizer):
    expected, counts = tokenize_pairs(read_pairs(mixed_file), tokenizer, MAX_LENGTH)
    for _ in range(2):  # made, then found
        pairs = open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
        assert tokens_of(pairs) == tokens_of(expected)
        assert pairs.counts == counts
    assert (counts.kept, counts.cut, counts.same) == (29, 2, 1)
    assert {a.dtype for p in pairs for a in (p.prompt, p.chosen, p.rejected)} == {np.dtype(np.int32)}


def test_a_store_is_a_sequence(mixed_file, tokenizer):
    pairs = open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    every = tokens_of(pairs)
    assert len(pairs) == len(every) == 29
    assert tokens_of([pairs[-1], pairs[np.int64(4)]]) == [every[-1], every[4]]
    assert tokens_of(pairs[3:9:2]) == every[3:9:2]
    with pytest.raises(IndexError):
        pairs[29]


def test_sizes_are_those_of_the_pairs(mixed_file, tokenizer):
    pairs = open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    assert pair_sizes(pairs).tolist() == pair_sizes(list(pairs)).tolist()
    assert pair_lengths(pairs).tolist() == [p.length for p in pairs]
    assert pair_sizes(pairs).sum(axis=1).tolist() == [p.tokens for p in pairs]
    assert pair_lengths([]).tolist() == []


def test_the_order_of_a_store_is_that_of_a_list(mixed_file, tokenizer):
    pairs = open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    every = list(pairs)
    assert epoch_windows(pairs, 8, 3, 1, 2) == epoch_windows(every, 8, 3, 1, 2)
    assert micro_batches(pairs, range(29), 4) == micro_batches(every, range(29), 4)
    assert epoch_windows(pairs, 8, 3, 1, 2)[1] == list(epoch_windows(pairs, 8, 3, 1, 2))[1]


def test_the_text_of_a_pair_is_read_back_from_its_line(mixed_file, tokenizer):
    pairs = open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    by_place = {row.where: row for row in read_pairs(mixed_file)}
    assert list(pairs.texts) == [by_place[pair.where] for pair in pairs]


def test_an_index_holds_every_row(mixed_file):
    index, rows = index_rows(mixed_file), read_pairs(mixed_file)
    assert [index.read(i) for i in range(len(index))] == list(index.records()) == rows
    assert [index.where(i) for i in range(len(index))] == [row.where for row in rows]


def test_prompts_in_both_files_are_found_by_words_not_case_or_spacing(write_rows, pair_rows, monkeypatch):
    monkeypatch.setattr(index_module, "_BLOCK", 5)
    train, valid = pair_rows[:23], pair_rows[40:52]
    valid[3] = {**valid[3], "prompt": f"  {train[17]['prompt'].upper()} "}
    valid[9] = {**valid[9], "prompt": train[0]["prompt"]}
    rows, others = index_rows(write_rows("a.jsonl", valid)), index_rows(write_rows("b.jsonl", train))
    known = {prompt_key(row.prompt) for row in others.records()}
    assert shared_prompts(rows, others).tolist() == [3, 9]
    assert [prompt_key(row.prompt) in known for row in rows.records()] == [i in (3, 9) for i in range(12)]


def test_other_tokens_or_another_form_need_another_version(tmp_path):
    """If this fails, raise _VERSION in pair_store.py: stores made before must not be found any more."""
    write_tokenizer(tmp_path, GRANITE, ["a"], 256 + len(GRANITE.special))  # one token a byte
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 1}))
    file = tmp_path / "pairs.jsonl"
    rows = pair(), pair(prompt=" Où? ", chosen="x" * 99), pair(system="Be brief."), pair(rejected_cut=True)
    file.write_text(lines(*rows))
    pairs = open_pairs(index_rows(file), load_tokenizer(tmp_path), 64)
    golden = "44f27660f95d25f5"
    assert (store_module._VERSION, pairs.content[:16]) == (6, golden)


def test_an_index_with_other_columns_needs_another_version(tmp_path, cache):
    """If this fails, raise _VERSION in row_index.py: indexes made before must not be found any more."""
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n" + lines(pair(), pair(prompt=" Où? "), pair(system="Be brief.")))
    index_rows(file)
    (folder,) = [p.parent for p in cache.glob("rows/*/entry.json")]
    columns = sorted(path for path in folder.iterdir() if path.name != "entry.json")
    assert [path.name for path in columns] == ["lines", "numbers", "places", "prompts"]
    golden = "ed6bc351c9c77019"
    content = b"".join(path.read_bytes() for path in columns)
    assert (index_module._VERSION, hashlib.sha256(content).hexdigest()[:16]) == (6, golden)


def test_an_index_of_another_version_is_made_again(mixed_file, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(index_module, "_VERSION", 3)
        index_rows(mixed_file)
    index = index_rows(mixed_file)
    assert [index.read(i) for i in range(len(index))] == read_pairs(mixed_file)
    assert len(list(cache.glob("rows/*/entry.json"))) == 2


# ---- made once


def test_the_second_start_reads_and_tokenises_no_row(mixed_file, tokenizer, tokenised, monkeypatch):
    first = tokens_of(open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH))
    assert len(tokenised) == 30
    monkeypatch.setattr(own_format, "to_preference", lambda *a: pytest.fail("read a row"))
    assert tokens_of(open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)) == first
    assert len(tokenised) == 30


def test_a_renamed_file_is_known_and_its_rows_have_the_new_name(mixed_file, tokenizer, tokenised, tmp_path):
    before = tokens_of(open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH))
    other = tmp_path / "elsewhere" / "renamed.jsonl"
    other.parent.mkdir()
    mixed_file.rename(other)
    pairs = open_pairs(index_rows(other), tokenizer, MAX_LENGTH)
    assert len(tokenised) == 30
    assert [p.where for p in pairs] == [where.replace(str(mixed_file), str(other)) for *_, where in before]
    assert pairs[5].where == f"{other}:13"
    assert pairs.texts[5].where == f"{other}:13"
    assert index_rows(other).where(29) == f"{other}:49"


def test_the_same_tokenizer_in_another_folder_is_known(mixed_file, tokenizer, tokenised, models, tmp_path):
    open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    other = load_tokenizer(shutil.copytree(models("granite"), tmp_path / "copy"))
    open_pairs(index_rows(mixed_file), other, MAX_LENGTH)
    assert len(tokenised) == 30


def test_a_tokenizers_key_does_not_change_with_its_use(tokenizer):
    before = tokenizer_key(tokenizer)
    tokenizer.encode("some words", truncation=True, max_length=3, padding="max_length")
    assert tokenizer_key(tokenizer) == before


def edited(models, folder, name, change):
    shutil.copytree(models("granite"), folder)
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    return load_tokenizer(folder)


TOKENIZERS = {
    "a merge less": ("tokenizer.json", lambda t: t["model"]["merges"].pop()),
    "another end of turn": ("tokenizer_config.json", lambda t: t.update(eos_token="<|end_of_role|>")),
    "an end token more": ("config.json", lambda t: t.update(eos_token_id=[1, 2])),
    "a normaliser": ("tokenizer.json", lambda t: t.update(normalizer={"type": "Lowercase"})),
    "another template": (
        "tokenizer_config.json",
        lambda t: t.update(
            chat_template=t["chat_template"].replace("<|start_of_role|>", "<|start_of_role|> ")
        ),
    ),
    "a template that differs where no row is": (
        "tokenizer_config.json",
        lambda t: t.update(chat_template=t["chat_template"] + "{% if tools %}tools{% endif %}"),
    ),
}


@pytest.mark.parametrize("case", TOKENIZERS.values(), ids=TOKENIZERS.keys())
def test_another_tokenizer_or_template_tokenises_again(
    case, mixed_file, tokenizer, tokenised, models, tmp_path
):
    open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    other = edited(models, tmp_path / "model", *case)
    pairs = open_pairs(index_rows(mixed_file), other, MAX_LENGTH)
    assert len(tokenised) == 60
    assert tokens_of(pairs) == tokens_of(tokenize_pairs(read_pairs(mixed_file), other, MAX_LENGTH)[0])


def test_another_length_tokenises_again(mixed_file, tokenizer, tokenised):
    open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    assert tokens_of(open_pairs(index_rows(mixed_file), tokenizer, 121)) == tokens_of(
        tokenize_pairs(read_pairs(mixed_file), tokenizer, 121)[0]
    )
    assert len(tokenised) == 90


@pytest.mark.parametrize("what", ["transformers", "tokenizers", "mlx-lm", "jinja2", "mlx_dpo", "_VERSION"])
def test_other_versions_tokenise_again(what, mixed_file, tokenizer, tokenised, monkeypatch):
    open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    version = store_module.version
    monkeypatch.setattr(store_module, "version", lambda n: "0.0" if n == what else version(n))
    if what == "mlx_dpo":
        monkeypatch.setattr(store_module, "__version__", "0.0")
    if what == "_VERSION":
        monkeypatch.setattr(store_module, "_VERSION", 0)
    open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    assert len(tokenised) == 60


def test_one_other_letter_tokenises_again(mixed_file, tokenizer, tokenised):
    open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    content = mixed_file.read_text()
    mixed_file.write_text(content.replace("Thus.", "Thuz.", 1))
    pairs = open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    assert len(tokenised) == 60
    assert tokens_of(pairs) == tokens_of(tokenize_pairs(read_pairs(mixed_file), tokenizer, MAX_LENGTH)[0])


def test_a_template_that_prints_the_time_makes_other_tokens_another_time(models, tmp_path):
    clock = "{{ strftime_now('%f') }}"  # a date, that passes in a microsecond
    tokenizer = edited(
        models,
        tmp_path / "model",
        "tokenizer_config.json",
        lambda t: t.update(chat_template=clock + t["chat_template"]),
    )
    one, other = tokenizer_key(tokenizer), tokenizer_key(load_tokenizer(tmp_path / "model"))
    assert one["rendered"] != other["rendered"]
    assert one["template"] == other["template"]


# ---- memory


def test_memory_does_not_grow_with_the_rows(write_rows, pair_rows, tokenizer, monkeypatch):
    """Peak of Python's own memory while a file is indexed, tokenised and read through."""
    monkeypatch.setattr(sealed_module, "_BLOCK", 2**16)
    long = " ".join(row["chosen"] for row in pair_rows[:20])
    peaks = {}
    for count in (40, 40, 400):  # the first warms up what is made once
        rows = [pair(id=f"{count}-{i}", prompt=f"{i}? {long}", chosen=long) for i in range(count)]
        file = write_rows(f"{count}.jsonl", rows)
        tracemalloc.start()
        for p in open_pairs(index_rows(file), tokenizer, 1024):
            assert p.tokens
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        file.unlink()
        shutil.rmtree(os.environ["MLX_DPO_CACHE"])
    assert peaks[400] - peaks[40] < 0.1 * 360 * 2 * len(long), "a tenth of the text that came in addition"


def test_a_pair_takes_24_bytes_of_memory(mixed_file, tokenizer):
    pairs = open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    arrays = [a for a in vars(pairs).values() if isinstance(a, np.ndarray)]
    assert sum(a.nbytes for a in arrays) == 24 * len(pairs)


def test_pairs_are_ordered_without_their_tokens(mixed_file, tokenizer):
    pairs = open_pairs(index_rows(mixed_file), tokenizer, MAX_LENGTH)
    pairs._read = lambda row: pytest.fail("read a pair's tokens to order it")
    windows = epoch_windows(pairs, 8, 1, 0, 0)
    assert sorted(i for w in windows for micro in w for i in micro) == list(range(29))


def test_a_lazy_sequence_equals_its_list():
    windows = epoch_windows(TEN, 4, 2, 0, 0)
    assert windows == list(windows) and list(windows) == windows
    assert windows != list(windows)[:-1]
    assert str(windows) == str(list(windows))
    assert [len(w) for w in windows[1:]] == [2, 1]


TEN = [TokenizedPair(*[np.arange(n, dtype=np.int32)] * 3, f"here:{n}") for n in range(1, 11)]
