"""Pairs on the disk are the pairs of the file: the same tokens, the same words about mistakes, made once."""

import json
import os
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from mlx_dpo import cache as cache_module
from mlx_dpo.cache import entry_folder
from mlx_dpo.data import index as index_module
from mlx_dpo.data import store as store_module
from mlx_dpo.data import tokenize as tokenize_module
from mlx_dpo.data.batches import epoch_windows, micro_batches
from mlx_dpo.data.index import index_rows, shared_prompts
from mlx_dpo.data.sources import read_pairs
from mlx_dpo.data.splits import prompt_key
from mlx_dpo.data.store import open_pairs, tokenizer_key
from mlx_dpo.data.tokenize import TokenizedPair, pair_lengths, pair_sizes, tokenize_pairs
from mlx_dpo.demo.tiny import GRANITE, write_tokenizer
from mlx_dpo.errors import DpoError
from mlx_dpo.models.load import load_tokenizer

MAX_LENGTH = 120


@pytest.fixture
def tokenizer(models):
    return load_tokenizer(models("granite"))


@pytest.fixture
def file(tmp_path, pair_rows):
    """Thirty rows with all that tokenising meets: blank lines, the same answers, answers to be cut."""
    rows = [dict(row) for row in pair_rows[::16]][:30]
    rows[3]["rejected"] = rows[3]["chosen"]
    rows[7]["chosen"] = rows[8]["rejected"] = "so " * 200
    rows[9] = {"system": "Be brief. Où?", "prompt": "Why?", "chosen": "So.", "rejected": "Thus. \U0001f642"}
    rows[11] = {"prompt": "Why?", "chosen": "So it is.", "rejected": "Thus."}
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows[:20]) + "\n")
    with open(path, "a", encoding="utf-8") as more:
        more.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[20:])
    return path


def plain(pairs):
    return [(p.prompt.tolist(), p.chosen.tolist(), p.rejected.tolist(), p.where) for p in pairs]


@pytest.fixture
def tokenised(monkeypatch):
    """The places of rows that were tokenised."""
    rows, pair_of = [], tokenize_module.RowTokenizer.pair

    def pair(self, row):
        rows.append(row.where)
        return pair_of(self, row)

    monkeypatch.setattr(tokenize_module.RowTokenizer, "pair", pair)
    return rows


# ---- what is in it


def test_a_store_holds_what_tokenising_gives(file, tokenizer):
    expected, counts = tokenize_pairs(read_pairs(file), tokenizer, MAX_LENGTH)
    for _ in range(2):  # made, then found
        pairs = open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
        assert plain(pairs) == plain(expected)
        assert pairs.counts == counts
    assert (counts.kept, counts.cut, counts.same) == (29, 2, 1)
    assert {a.dtype for p in pairs for a in (p.prompt, p.chosen, p.rejected)} == {np.dtype(np.int32)}


def test_a_store_is_a_sequence(file, tokenizer):
    pairs = open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    every = plain(pairs)
    assert len(pairs) == len(every) == 29
    assert plain([pairs[-1], pairs[np.int64(4)]]) == [every[-1], every[4]]
    assert plain(pairs[3:9:2]) == every[3:9:2]
    with pytest.raises(IndexError):
        pairs[29]


def test_sizes_are_those_of_the_pairs(file, tokenizer):
    pairs = open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    assert pair_sizes(pairs).tolist() == pair_sizes(list(pairs)).tolist()
    assert pair_lengths(pairs).tolist() == [p.length for p in pairs]
    assert pair_sizes(pairs).sum(axis=1).tolist() == [p.tokens for p in pairs]
    assert pair_lengths([]).tolist() == []


def test_the_order_of_a_store_is_that_of_a_list(file, tokenizer):
    pairs = open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    every = list(pairs)
    assert epoch_windows(pairs, 8, 3, 1, 2) == epoch_windows(every, 8, 3, 1, 2)
    assert micro_batches(pairs, range(29), 4) == micro_batches(every, range(29), 4)
    assert epoch_windows(pairs, 8, 3, 1, 2)[1] == list(epoch_windows(pairs, 8, 3, 1, 2))[1]


def test_the_text_of_a_pair_is_read_back_from_its_line(file, tokenizer):
    pairs = open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    by_place = {row.where: row for row in read_pairs(file)}
    assert list(pairs.texts) == [by_place[pair.where] for pair in pairs]


def test_an_index_holds_every_row(file):
    index, rows = index_rows(file), read_pairs(file)
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
    """If this fails, raise _VERSION in store.py: stores made before must not be found any more."""
    write_tokenizer(tmp_path, GRANITE, ["a"], 256 + len(GRANITE.special))  # one token a byte
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 1}))
    file = tmp_path / "pairs.jsonl"
    file.write_text(lines(pair(), pair(prompt=" Où? ", chosen="x" * 99), pair(system="Be brief.")))
    pairs = open_pairs(index_rows(file), load_tokenizer(tmp_path), 64)
    golden = "ef3c90366ae13b9e"
    assert (store_module._VERSION, pairs.content[:16]) == (1, golden)


# ---- made once


def test_the_second_start_reads_and_tokenises_no_row(file, tokenizer, tokenised, monkeypatch):
    first = plain(open_pairs(index_rows(file), tokenizer, MAX_LENGTH))
    assert len(tokenised) == 30
    monkeypatch.setattr(index_module, "to_preference", lambda *a: pytest.fail("read a row"))
    assert plain(open_pairs(index_rows(file), tokenizer, MAX_LENGTH)) == first
    assert len(tokenised) == 30


def test_a_renamed_file_is_known_and_its_rows_have_the_new_name(file, tokenizer, tokenised, tmp_path):
    before = plain(open_pairs(index_rows(file), tokenizer, MAX_LENGTH))
    other = tmp_path / "elsewhere" / "renamed.jsonl"
    other.parent.mkdir()
    file.rename(other)
    pairs = open_pairs(index_rows(other), tokenizer, MAX_LENGTH)
    assert len(tokenised) == 30
    assert [p.where for p in pairs] == [where.replace(str(file), str(other)) for *_, where in before]
    assert pairs[5].where == f"{other}:13"
    assert pairs.texts[5].where == f"{other}:13"
    assert index_rows(other).where(29) == f"{other}:49"


def test_the_same_tokenizer_in_another_folder_is_known(file, tokenizer, tokenised, models, tmp_path):
    open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    other = load_tokenizer(shutil.copytree(models("granite"), tmp_path / "copy"))
    open_pairs(index_rows(file), other, MAX_LENGTH)
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
def test_another_tokenizer_or_template_tokenises_again(case, file, tokenizer, tokenised, models, tmp_path):
    open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    other = edited(models, tmp_path / "model", *case)
    pairs = open_pairs(index_rows(file), other, MAX_LENGTH)
    assert len(tokenised) == 60
    assert plain(pairs) == plain(tokenize_pairs(read_pairs(file), other, MAX_LENGTH)[0])


def test_another_length_tokenises_again(file, tokenizer, tokenised):
    open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    assert plain(open_pairs(index_rows(file), tokenizer, 121)) == plain(
        tokenize_pairs(read_pairs(file), tokenizer, 121)[0]
    )
    assert len(tokenised) == 90


@pytest.mark.parametrize("what", ["transformers", "tokenizers", "mlx-lm", "jinja2", "mlx_dpo", "_VERSION"])
def test_other_versions_tokenise_again(what, file, tokenizer, tokenised, monkeypatch):
    open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    version = store_module.version
    monkeypatch.setattr(store_module, "version", lambda n: "0.0" if n == what else version(n))
    if what == "mlx_dpo":
        monkeypatch.setattr(store_module, "__version__", "0.0")
    if what == "_VERSION":
        monkeypatch.setattr(store_module, "_VERSION", 0)
    open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    assert len(tokenised) == 60


def test_one_other_letter_tokenises_again(file, tokenizer, tokenised):
    open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    content = file.read_text()
    file.write_text(content.replace("Thus.", "Thuz.", 1))
    pairs = open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    assert len(tokenised) == 60
    assert plain(pairs) == plain(tokenize_pairs(read_pairs(file), tokenizer, MAX_LENGTH)[0])


def test_a_template_that_prints_the_time_makes_other_tokens_another_time(models, tmp_path):
    clock = "{{ strftime_now('%f') }}"  # a date, that passes in a microsecond
    tokenizer = edited(
        models,
        tmp_path / "model",
        "tokenizer_config.json",
        lambda t: t.update(chat_template=clock + t["chat_template"]),
    )
    one, other = tokenizer_key(tokenizer), tokenizer_key(tokenizer)
    assert one["rendered"] != other["rendered"]
    assert one["template"] == other["template"]


# ---- mistakes, in the words they have without a store


def same_error(file, tokenizer=None, max_length=MAX_LENGTH):
    """Reading into memory and opening a store refuse a file with the same words; the store keeps nothing."""
    errors = []
    for whole in (True, False):
        with pytest.raises(DpoError) as caught:
            if whole:
                tokenize_pairs(read_pairs(file), tokenizer, max_length)
            else:
                open_pairs(index_rows(file), tokenizer, max_length)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    return errors[0]


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def pair(**changes):
    return {"prompt": "How?", "chosen": "So.", "rejected": "Thus."} | changes


BAD = {
    "no rows": "\n \n",
    "no object": lines(pair(), 5),
    "not UTF-8": lines(pair()).encode() + b'{"prompt": "\xff"}\n',
    "no chosen answer": lines(pair(), {"prompt": "How?", "rejected": "No."}),
    "an id twice": lines(pair(id="a"), pair(id="b"), pair(id="b"), pair(id="a")),
    "an id three times": lines(pair(), pair(id=4), pair(id="4"), pair(id="4")),
    "an id that is another row's line": "\n" + lines(pair(id="line-3"), pair()),
    "an id twice and then a bad row": lines(pair(id="a"), pair(id="a"), {}),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_bad_rows_are_refused_as_without_a_store(content, tmp_path, cache):
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    same_error(file)
    assert not [p for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_rows_that_cannot_be_tokenised_are_refused_as_without_a_store(tmp_path, tokenizer):
    file = tmp_path / "pairs.jsonl"
    long = "How? " * 90
    file.write_text(lines(pair(), *[pair(prompt=long)] * 14))
    assert "so have lines 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 3 more" in same_error(file, tokenizer)
    file.write_text(lines(pair(rejected="So."), pair(chosen=long + "a", rejected=long + "b")))
    assert "no pair is left of 2" in same_error(file, tokenizer)


def test_ids_whose_hashes_are_the_same_are_not_the_same_id(write_rows, pair_rows, monkeypatch):
    hash_of = index_module._hash
    monkeypatch.setattr(index_module, "_hash", lambda text, n: b"\0" * 8 if n == 8 else hash_of(text, n))
    index = index_rows(write_rows("pairs.jsonl", pair_rows[:6]))
    assert len(index) == 6
    doubled = [*pair_rows[:6], {**pair_rows[6], "id": pair_rows[4]["id"]}]
    with pytest.raises(DpoError, match=r"pairs.jsonl:7: the id '.*' stands at .*pairs.jsonl:5 too"):
        index_rows(write_rows("pairs.jsonl", doubled))


def test_what_can_be_read_only_once_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DpoError, match="pipe: is not a plain file"):
        index_rows(tmp_path / "pipe")


@pytest.mark.parametrize("stage", ["index", "store"])
def test_a_file_that_changes_while_it_is_read_is_refused(stage, file, tokenizer, cache, monkeypatch):
    index = index_rows(file) if stage == "store" else None
    module = index_module
    parse = module.to_preference

    def grow(row, where):
        with open(file, "a") as more:
            more.write(lines(pair(id=where)))
        return parse(row, where)

    monkeypatch.setattr(module, "to_preference", grow)
    monkeypatch.setattr(index_module, "read_jsonl", bounded(index_module.read_jsonl))
    monkeypatch.setattr(index_module, "read_lines", bounded(index_module.read_lines))
    with pytest.raises(DpoError) as caught:
        open_pairs(index or index_rows(file), tokenizer, MAX_LENGTH)
    assert str(caught.value) == f"{file}: changed while it was read\n  start again when it is complete"
    assert not list(cache.glob("pairs/*/entry.json"))


def bounded(read):
    """A file that grows by a row for each row read has no end: read fifty."""
    return lambda path: (row for _, row in zip(range(50), read(path), strict=False))


# ---- damage and interruption


@pytest.mark.parametrize("name", ["tokens", "sizes", "lines"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_store_is_made_again(name, damage, file, tokenizer, tokenised, capsys):
    pairs = open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    expected, folder = plain(pairs), entry_folder("pairs", pairs.key)
    content = (folder / name).read_bytes()
    if damage == "flipped":
        (folder / name).write_bytes(content[:40] + bytes([content[40] ^ 4]) + content[41:])
    elif damage == "cut":
        os.truncate(folder / name, len(content) - 4)
    else:
        (folder / name).unlink()
    capsys.readouterr()
    for _ in range(2):
        assert plain(open_pairs(index_rows(file), tokenizer, MAX_LENGTH)) == expected
    assert len(tokenised) == 60
    assert capsys.readouterr().err.count("is damaged") == 1


@pytest.mark.parametrize("name", ["lines", "places", "prompts"])
def test_a_damaged_index_is_made_again(name, file, cache, capsys):
    rows = list(index_rows(file).records())
    (folder,) = [p.parent for p in cache.glob("rows/*/entry.json")]
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:9] + bytes([content[9] ^ 1]) + content[10:])
    index = index_rows(file)
    assert [index.read(i) for i in range(len(index))] == rows
    assert capsys.readouterr().err.count("is damaged") == 1


def test_a_store_cut_off_while_it_is_in_use_is_an_error(file, tokenizer):
    pairs = open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    os.truncate(entry_folder("pairs", pairs.key) / "tokens", 100)
    with pytest.raises(DpoError, match="tokens: was cut off while it was in use"):
        pairs[28]


def test_an_interrupted_build_leaves_nothing_and_the_next_is_whole(file, tokenizer, cache, monkeypatch):
    pair_of, count = tokenize_module.RowTokenizer.pair, iter(range(100))

    def stop(self, row):
        if next(count) == 12:
            raise KeyboardInterrupt
        return pair_of(self, row)

    index = index_rows(file)
    with monkeypatch.context() as patch:
        patch.setattr(tokenize_module.RowTokenizer, "pair", stop)
        with pytest.raises(KeyboardInterrupt):
            open_pairs(index, tokenizer, MAX_LENGTH)
    assert [p.name for p in (cache / "pairs").iterdir() if p.suffix != ".lock"] == []
    expected, _ = tokenize_pairs(read_pairs(file), tokenizer, MAX_LENGTH)
    assert plain(open_pairs(index, tokenizer, MAX_LENGTH)) == plain(expected)


KILLED = """
import os, signal, sys
from pathlib import Path
from mlx_dpo.data import tokenize
from mlx_dpo.data.index import index_rows
from mlx_dpo.data.store import open_pairs
from mlx_dpo.models.load import load_tokenizer
pair_of, left = tokenize.RowTokenizer.pair, [12]
def kill(self, row):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return pair_of(self, row)
tokenize.RowTokenizer.pair = kill
open_pairs(index_rows(sys.argv[1]), load_tokenizer(Path(sys.argv[2])), 120)
"""


def test_after_a_kill_the_next_start_is_whole_and_clears_up(file, tokenizer, models, cache):
    command = [sys.executable, "-c", KILLED, str(file), str(models("granite"))]
    assert subprocess.run(command, capture_output=True).returncode == -9
    (left,) = [p for p in (cache / "pairs").iterdir() if p.is_dir()]
    assert (left / "tokens").exists()
    expected, _ = tokenize_pairs(read_pairs(file), tokenizer, MAX_LENGTH)
    assert plain(open_pairs(index_rows(file), tokenizer, MAX_LENGTH)) == plain(expected)
    assert not left.exists()


# ---- memory


def test_memory_does_not_grow_with_the_rows(write_rows, pair_rows, tokenizer, monkeypatch):
    """Peak of Python's own memory while a file is indexed, tokenised and read through."""
    monkeypatch.setattr(cache_module, "_BLOCK", 2**16)
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


def test_a_pair_takes_24_bytes_of_memory(file, tokenizer):
    pairs = open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
    arrays = [a for a in vars(pairs).values() if isinstance(a, np.ndarray)]
    assert sum(a.nbytes for a in arrays) == 24 * len(pairs)


def test_pairs_are_ordered_without_their_tokens(file, tokenizer):
    pairs = open_pairs(index_rows(file), tokenizer, MAX_LENGTH)
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
