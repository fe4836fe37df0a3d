"""What `mlx-dpo push` would upload, and its model card: `--dry-run` writes both and asks nobody."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.export.file_lists import KINDS as FOLDERS
from mlx_dpo.export.file_lists import files_of
from mlx_dpo.export.local_paths import check_no_paths, is_local, own_folders, without_local_paths
from mlx_dpo.export.made_from import FILE
from mlx_dpo.jobs.push import dry_run
from mlx_dpo.models.adapter_checksum import KEY, stamped
from mlx_dpo.models.adapters import read_adapter_config

from ..conftest import ROOT
from ..support.hub_uploads import BASE, REPO, TOKEN, card_data, part
from ..support.mistakes import changed, edit, holding, lines

ADAPTER = ["README.md", "adapter_config.json", "adapters.safetensors"]


def test_a_dry_run_writes_the_listed_files_and_makes_no_request(finished, hub, outcome, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, out, err = outcome("push", finished, REPO, "--base-model", BASE, "--dry-run")
    assert (code, hub.asked) == (0, []), err
    output = finished.parent / "whole-hub"
    assert out.splitlines()[0] == f"written: {output} (3 files; the card is README.md)"
    assert sorted(path.name for path in output.iterdir()) == ADAPTER
    assert "stays here: checkpoints, config.yaml, events.jsonl, inspection.json, metrics.jsonl" in err
    assert "the card shows 1 held-out prompt with the model's answers; --samples 0 leaves them out" in err
    assert (output / "adapters.safetensors").read_bytes() == (finished / "adapters.safetensors").read_bytes()


def test_the_adapter_names_its_base_by_its_hub_name_and_is_still_whole(written):
    folder = written()
    assert json.loads((folder / "adapter_config.json").read_text())["model"] == BASE
    assert read_adapter_config(folder).rank == 2


@pytest.mark.parametrize("kind", ["finished", "fused"])
def test_no_path_of_this_machine_and_no_token_leaves(kind, written, request, tmp_path):
    folder = written(request.getfixturevalue(kind))
    for file in folder.iterdir():
        content = file.read_bytes()
        for secret in (str(tmp_path), "/srv/example", str(Path.home()), TOKEN):
            assert secret.encode() not in content, (file.name, secret)


KINDS = {
    "peft": (["peft"], ["adapter_config.json", "adapter_model.safetensors"], "adapter", "peft"),
    "hf": (["hf"], ["config.json", "model.safetensors", "tokenizer.json"], "finetune", "transformers"),
    "gguf": (["gguf"], ["Modelfile", "export-f16.gguf"], "finetune", "gguf"),
    "gguf-lora": (["gguf", "--lora"], ["export-lora.gguf"], "adapter", "gguf"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_export_has_its_files_its_relation_and_its_commands(kind, finished, written, outcome, tmp_path):
    words, files, relation, library = KINDS[kind]
    if "gguf" in words:
        pytest.importorskip("gguf")
    export = finished.parent / "export"
    proof = [] if kind == "gguf-lora" else ["--no-prove"]
    code, _, err = outcome("export", *words, "--run", finished, "--output", export, *proof)
    assert code == 0, err
    folder = written(export)
    names = {path.name for path in folder.iterdir()}
    assert {"README.md", *files} <= names and FILE not in names
    card = (folder / "README.md").read_text()
    about = card_data(card)
    assert (about["base_model_relation"], about["library_name"]) == (relation, library)
    assert about["mlx_dpo_kind"] == kind and about["base_model"] == BASE
    program = {"peft": "PEFT", "hf": "transformers"}.get(kind, "llama.cpp")
    assert f"- This export was not compared with {program}." in part(card, "Limits")
    assert "6.4419 at the last" in card and "tiny-dpo" in part(card, "How to run it")
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in folder.iterdir())
    if kind == "peft":
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == BASE
        assert "convert_lora_to_gguf.py tiny-dpo" in card


def test_an_adapter_with_a_chat_template_of_its_own_is_loaded_with_it(finished, written):
    changed("config.yaml", "chat_template: null", "chat_template: chatml")(finished)
    (finished / "chat_template.jinja").write_text("{{ messages }}")
    folder = written()
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"
    assert 'open("tiny-dpo/chat_template.jinja")' in (folder / "README.md").read_text()


def test_the_export_finds_its_run_where_both_were_moved_together(fused, finished, written, tmp_path):
    moved = shutil.move(finished.parent, tmp_path / "elsewhere")
    (Path(moved) / "model").rename(finished.parent)  # the card of the base is still asked for by its old path
    shutil.move(finished.parent, tmp_path / "model")
    folder = written(Path(moved) / "fused", licence="mit")
    assert "6.4419 at the last" in (folder / "README.md").read_text()


MISTAKES = {
    "a folder of something else": (
        lambda finished: (finished.parent / "other").mkdir(),
        "other",
        "is neither a run folder nor",
        "mlx-dpo fuse or mlx-dpo export",
    ),
    "no folder": (lambda finished: None, "gone", "no such folder", "run folder"),
    "a run without an update": (
        holding("metrics.jsonl", lines({"step": 0, "eval/loss": 1.0, "eval/pairs": 2})),
        "whole",
        "made no update",
        "train first",
    ),
    "a damaged adapter": (
        changed("adapter_config.json", '"rank": 2', '"rank": 3'),
        "whole",
        "its rank is 3",
        "copy the whole run folder",
    ),
    "a run without metrics": (
        holding("metrics.jsonl", ""),
        "whole",
        "has no lines yet",
        "train first",
    ),
    "a base without a licence": (
        lambda finished: (finished.parent / "model" / "README.md").write_text("---\ntags: [a]\n---\n"),
        "whole",
        "the licence of the base model is not known",
        "--license apache-2.0",
    ),
}


@pytest.mark.parametrize("case", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_told_before_anything_is_written(case, finished, hub, mistake, monkeypatch, tmp_path):
    change, source, phrase, remedy = case
    change(finished)
    error = mistake(f"push desk/{source} {REPO} --base-model {BASE} --dry-run --output out")
    assert phrase in error.what and remedy in error.hint
    assert hub.asked == [] and not (tmp_path / "out").exists()


def test_names_and_places_are_checked_first(finished, hub, mistake, tmp_path):
    (tmp_path / "there").mkdir()
    error = mistake(f"push desk/whole {REPO} --base-model {BASE} --dry-run --output there")
    assert (error.where, error.what) == ("there", "exists already")
    error = mistake("push desk/whole tiny-dpo --dry-run")
    assert (error.where, error.what) == ("tiny-dpo", "has no owner")
    assert mistake("push desk/whole a/b/c --dry-run").what == "is not the name of a repository"
    error = mistake(f"push desk/whole {REPO} --dry-run")
    assert error.where == str(finished.parent / "model") and "--base-model ORGANISATION/MODEL" in error.hint
    assert "the name of a model" in mistake(f"push desk/whole {REPO} --base-model ./model --dry-run").what


def test_an_export_of_another_run_is_refused(fused, finished, hub, mistake):
    error = mistake(f"push desk/fused {REPO} --run desk/stopped --base-model {BASE} --dry-run")
    assert "was made from another adapter than the one in desk/stopped" in error.what
    error = mistake(f"push desk/whole {REPO} --run desk/stopped --base-model {BASE} --dry-run")
    assert error.what == "is a run itself"
    shutil.move(finished, finished.parent / "renamed")
    error = mistake(f"push desk/fused {REPO} --base-model {BASE} --dry-run")
    assert "which is not there" in error.what and "--run FOLDER" in error.hint
    edit(finished.parent / "fused" / FILE, kind="onnx")
    error = mistake(f"push desk/fused {REPO} --base-model {BASE} --dry-run")
    assert error.what == "has the unknown kind 'onnx'" and error.where.endswith(FILE)
    edit(finished.parent / "fused" / FILE, kind=...)
    error = mistake(f"push desk/fused {REPO} --base-model {BASE} --dry-run")
    assert error.what == "has no kind, run, adapter_sha256, checks or files"


def test_a_damaged_export_is_refused_and_a_changed_config_is_not(fused, finished, mistake, written):
    edit(fused / "generation_config.json", temperature=0.7)
    assert json.loads((written(fused) / "generation_config.json").read_text())["temperature"] == 0.7
    whole = (fused / "model.safetensors").read_bytes()
    command = f"push desk/fused {REPO} --base-model {BASE} --dry-run"
    for damaged in (whole[: len(whole) // 2], whole[:-1] + b"?"):
        (fused / "model.safetensors").write_bytes(damaged)
        error = mistake(command)
        assert error.where == str(Path("desk/fused/model.safetensors")) and "mlx-dpo fuse" in error.hint
        assert error.what == "differs from what the export wrote"
        assert mistake(f"push desk/fused {REPO} --lm-studio").what == error.what
    (fused / "model.safetensors").rename(fused / "model-00001-of-00002.safetensors")
    assert mistake(command).what == "is missing from the export"
    (fused / "model.safetensors").write_bytes(whole)
    error = mistake(command)
    assert error.what == "was not written by the export" and "00001-of" in error.where


def test_a_relative_folder_of_the_base_leaves_neither_as_path_nor_as_name(
    finished, hub, written, mistake, tmp_path, monkeypatch
):
    (tmp_path / "models").mkdir()
    shutil.copytree(finished.parent / "model", tmp_path / "models" / "tiny")
    changed("config.yaml", f"path: {finished.parent / 'model'}", "path: models/tiny")(finished)
    config = json.loads((finished / "adapter_config.json").read_text())
    config = {key: value for key, value in config.items() if key != KEY} | {"model": "models/tiny"}
    (finished / "adapter_config.json").write_text(json.dumps(stamped(config)))
    monkeypatch.chdir(tmp_path)
    assert json.loads((written(licence="mit") / "adapter_config.json").read_text())["model"] == BASE
    for place in (tmp_path, finished.parent):
        monkeypatch.chdir(place)
        with pytest.raises(DpoError, match="so its name on the Hub is not known") as told:
            dry_run(finished, REPO, tmp_path / "other")
        assert told.value.where == "models/tiny" and "--base-model" in told.value.hint


def test_an_adapter_for_peft_never_names_its_base_by_a_relative_folder(
    finished, outcome, tmp_path, monkeypatch
):
    monkeypatch.chdir(finished.parent)
    code, _, err = outcome(
        "export", "peft", "--run", "whole", "--output", "peft", "--base", "model", "--no-prove"
    )
    assert code == 0, err
    named = json.loads((finished.parent / "peft" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(finished.parent / "model")


def test_every_file_of_export_hf_may_leave_the_machine(finished, outcome):
    for name in ("preprocessor_config.json", "processor_config.json"):
        (finished.parent / "model" / name).write_text("{}")
    folder = finished.parent / "hf"
    code, _, err = outcome("export", "hf", "--run", finished, "--output", folder, "--no-prove")
    assert code == 0, err
    listed = {file.name for file in files_of(folder, FOLDERS["hf"])}
    assert {file.name for file in folder.iterdir()} - listed == {FILE}


def test_a_disk_without_room_is_told_before_anything_is_copied(finished, hub, mistake, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        error = mistake(f"push desk/whole {REPO} --base-model {BASE} --dry-run --output disk/out")
        assert error.where == "disk/out" and "GB left" in error.what and "another disk" in error.hint
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_quantised_base_and_its_makers_card_are_suggested(finished, hub, mistake):
    card = finished.parent / "model" / "README.md"
    card.write_text("---\nbase_model: org/original\nlicense: mit\n---\n")
    assert "--base-model org/original" in mistake(f"push desk/whole {REPO} --dry-run").hint


def test_a_dry_run_killed_at_any_moment_leaves_nothing_behind_the_next_one(finished, tmp_path):
    """Every kill is a -9; what was being written is cut in half."""
    shutil.copytree(finished, tmp_path / "start" / "whole")
    command = ["push", "whole", REPO, "--base-model", BASE, "--dry-run", "--output", "out"]
    arguments = [str(tmp_path / name) for name in ("start", "work", "states")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kills", *arguments, "4", *command],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    codes = json.loads(done.stdout.splitlines()[-1])
    assert codes.pop("whole") == 0 and len(codes) == 4
    whole = {p.name: p.read_bytes() for p in (tmp_path / "states" / "whole" / "out").iterdir()}
    assert sorted(whole) == ADAPTER
    for moment, (killed, again) in codes.items():
        states = tmp_path / "states" / moment
        there = (states / "killed" / "out").exists()
        assert (killed, again) == (-9, 1 if there else 0)  # a whole one is not replaced
        assert {p.name: p.read_bytes() for p in (states / "again" / "out").iterdir()} == whole
        assert sorted(p.name for p in (states / "again").iterdir()) == ["out", "tmp", "whole"]


def test_a_path_that_may_matter_is_refused_and_one_that_does_not_is_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    here = str(tmp_path / "a")
    content = {"_name_or_path": here, "tokenizer_file": here, "n": 3, "unk_token": "/", "x": "/v1/models"}
    kept = without_local_paths(content, BASE, Path("config.json"))
    assert kept == {"_name_or_path": BASE, "n": 3, "unk_token": "/", "x": "/v1/models"}
    with pytest.raises(DpoError, match=r"names paths of this machine.*: rope\.table, list") as told:
        without_local_paths({"rope": {"table": here}, "list": [1, here]}, BASE, Path("config.json"))
    assert told.value.code == "local-path"
    assert is_local(f"{Path.home()}/gone") and is_local("~/gone") and is_local("/Users/a/base")
    assert not is_local("org/base") and not is_local("{% if a %}/{% endif %}")


NAMES_A_PATH = {
    "address of a file": ("config.json", '{"a": "file:///Users/me/base"}'),
    "inside a text": ("config.json", '{"a": "made from /home/me/base today"}'),
    "key": ("generation_config.json", '{"/Users/me": 1}'),
    "another disk": ("likeness.json", '"/Volumes/Work/base"'),
    "Windows": ("tokenizer_config.json", json.dumps("C:\\Users\\me")),
    "template": ("chat_template.jinja", "{# saved in /Users/me/x #}"),
    "vocabulary": ("tokenizer.json", '{"x": "/desk/run"}'),
    "card": ("README.md", "see /desk/run"),
    "metadata of weights": (
        "model.safetensors",
        b"\x30" + b"\0" * 7 + b'{"__metadata__": {"base": "/Users/me/base"}}    ',
    ),
    "metadata of a GGUF": ("a.gguf", b"GGUF" + b"\0" * 99 + b"/desk/run"),
}


@pytest.mark.parametrize("name, content", NAMES_A_PATH.values(), ids=NAMES_A_PATH.keys())
def test_a_path_in_any_file_is_found(name, content, tmp_path):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DpoError, match="names a path of this machine") as told:
        check_no_paths(name, file, ["/desk/run"])
    assert (told.value.code, told.value.where) == ("local-path", str(file))


def test_words_that_are_no_paths_of_this_machine_may_leave(tmp_path):
    for name, content in {
        "tokenizer.json": b'{"/Users/": 7, "/home/me": 8}',
        "LICENSE": b"https://example.org/home/licence and /home/page",
        "config.json": b'{"x": "https://example.org/home/me", "y": "org/Users/a", "z": "/v1/home"}',
        "README.md": b"How do I list /home/me?",
    }.items():
        check_no_paths(name, content, ["/desk/run"])
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\x02" + b"\0" * 7 + b"{}/Users/me/base")
    check_no_paths(weights.name, weights, [])
    assert own_folders("/") == [] and own_folders(tmp_path / "a") == [str(tmp_path / "a")]


def test_a_template_with_the_path_of_the_run_stays_here(finished, hub, mistake):
    changed("config.yaml", "chat_template: null", "chat_template: chatml")(finished)
    (finished / "chat_template.jinja").write_text(f"{{# {finished.resolve()} #}}{{{{ messages }}}}")
    error = mistake(f"push desk/whole {REPO} --base-model {BASE} --dry-run")
    assert error.code == "local-path" and error.where.endswith("chat_template.jinja")
