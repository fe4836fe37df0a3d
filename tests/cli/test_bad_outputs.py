"""Output folders that cannot be used: taken, locked, or on a disk that is full or fills."""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import gettempdir

import pytest

from mlx_dpo.cli import main

from ..support.mistakes import (
    GEN_PAIRS,
    TRAIN,
    assert_told,
    changed,
    curated,
    files_end_at,
    lines,
    pair,
    write,
)

WRITERS = {
    "train": f"{TRAIN} --model ./no-model",
    "gen-pairs": f"{GEN_PAIRS} --model ./no-model",
    "fuse": "fuse --run run",
}
NEEDS = {"train": "0.05", "gen-pairs": "0.01", "fuse": "0.00"}


@pytest.fixture(params=WRITERS)
def writer(request, tmp_path, trained):
    """The name of a command that writes a folder; what it reads is there."""
    shutil.copytree(trained("llama"), tmp_path / "run")
    (tmp_path / "rows.jsonl").write_text(lines(pair() | curated()))
    return request.param


def test_an_output_inside_a_file_is_refused(writer, refused_at, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused_at(f"{WRITERS[writer]} --output file/out", "file/out", f"{tmp_path}/file", "output folder")


@pytest.mark.parametrize("name", ["train", "gen-pairs"])
def test_an_output_that_is_a_file_is_refused(name, refused_at, tmp_path):
    write(tmp_path / "rows.jsonl", lines(pair() | curated()))
    refused_at(f"{WRITERS[name]} --output rows.jsonl", "rows.jsonl", "is a file", "output folder")


def test_an_output_that_cannot_be_written_is_refused(writer, refused_at, tmp_path):
    locked, reason = tmp_path / "locked", "Permission denied"
    locked.mkdir(mode=0o555)
    if os.access(locked, os.W_OK):  # root may write anywhere but where the system itself refuses
        locked, reason = Path("/proc"), "No such file or directory"
        if not locked.exists():
            pytest.skip("this user may write everywhere")
    refused_at(f"{WRITERS[writer]} --output {locked}/out", f"{locked}/out", reason, "output folder")


def test_a_disk_without_room_is_refused(writer, refused_at, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        refused_at(f"{WRITERS[writer]} --output disk/out", "disk/out", f"{NEEDS[writer]} GB", "another disk")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_model_too_large_for_the_disk_is_not_fused(refused_at, tmp_path, trained, models):
    run = shutil.copytree(trained("llama"), tmp_path / "run")
    model = shutil.copytree(models("llama"), tmp_path / "model")
    changed("config.yaml", str(models("llama")), "model")(run)
    with open(model / "model-2.safetensors", "wb") as file:
        header = b'{"huge":{"dtype":"U8","shape":[15000000,1000000],"data_offsets":[0,15000000000000]}}'
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 15 * 10**12)  # a hole: it takes no room here
    refused_at("fuse --run run --output fused", "fused", "15000.00 GB", "another disk")


def test_a_disk_that_fills_while_a_run_is_replaced_leaves_the_older_run_whole(
    refused_at, tmp_path, trained, models
):
    shutil.copytree(trained("llama"), tmp_path / "run")
    write(tmp_path / "rows.jsonl", lines(pair()))
    with files_end_at(100_000):
        refused_at(
            f"{TRAIN} --model {models('llama')} --output run --overwrite",
            "run/adapters.safetensors",
            "Unable to write",
            "free some space",
        )


def test_a_disk_that_fills_leaves_no_half_model(refused_at, tmp_path, trained):
    shutil.copytree(trained("llama"), tmp_path / "run")
    with files_end_at(600_000):
        refused_at("fuse --run run --output fused", "fused", "Unable to write", "free some space")
    with files_end_at(100_000):  # not even the logits have room
        refused_at("fuse --run run --output fused", gettempdir(), "cannot be kept there", "set TMPDIR")
    assert not (tmp_path / "fused").exists()


def test_a_disk_that_fills_before_the_first_answer_is_an_error(refused_at, tmp_path, models):
    write(tmp_path / "rows.jsonl", lines(curated()))
    with files_end_at(50):
        refused_at(
            f"{GEN_PAIRS} --model {models('llama')} --output out",
            "out/completions.json",
            "File too large",
            "free some space",
        )


def test_an_answer_that_finds_no_room_is_an_error(tmp_path, models, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", lines(*[curated(prompt=f"How {n}?") for n in range(9)]))
    with files_end_at(300), pytest.raises(SystemExit) as stop:
        main(f"{GEN_PAIRS} --model {models('llama')} --output out --max-tokens 4".split())
    error = stop.value.__context__
    assert_told(error, "out/completions.jsonl", "File too large", "free some space")
    assert stop.value.code == 1
    assert capsys.readouterr().err.endswith(f"Error: {error}\n")


def test_a_run_is_not_replaced_by_accident(refused_at, tmp_path, trained):
    shutil.rmtree(shutil.copytree(trained("llama"), tmp_path / "run") / "checkpoints")
    refused_at(f"{WRITERS['train']} --output run", "run", "without checkpoints", "--overwrite")
    own = f"{WRITERS['train']} --output run --overwrite --set model.adapter=run"
    refused_at(own, "run", "the adapter that the run starts from", "--output")
    refused_at("fuse --run run --output run", "run", "exists already", "--output", "exists")


def test_a_run_replaces_no_settings_file_and_has_a_folder_of_its_own(refused_at, tmp_path):
    write(tmp_path / "rows.jsonl", lines(pair()))
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine" / "config.yaml", "run: {output: mine}  # by hand\n")
    written = f"{TRAIN} --model ./no-model --config mine/config.yaml --output mine"
    refused_at(written, "mine", "config.yaml, which a run would replace", "--overwrite")
    refused_at(f"{TRAIN} --set run.output=", "--set run.output", "got ''", "set run.output to")


def test_rows_that_gen_pairs_did_not_write_are_not_replaced(refused_at, tmp_path, models):
    (tmp_path / "mine").mkdir()
    write(tmp_path / "rows.jsonl", lines(curated()))
    write(tmp_path / "mine" / "train.jsonl", lines(pair()))
    command = f"{GEN_PAIRS} --model {models('llama')} --output mine"
    refused_at(command, "mine", "train.jsonl", "--output")
    write(tmp_path / "mine" / "completions.json", "[]")
    refused_at(command, "mine/completions.json", "JSON object", "delete the folder mine")
