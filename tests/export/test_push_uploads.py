"""`mlx-dpo push` against a stand-in for the Hub: what arrives, once, also after cut connections."""

import hashlib
import json
from pathlib import Path

import pytest

from mlx_dpo.errors import DpoError
from mlx_dpo.export.hub_upload import upload
from mlx_dpo.models.load import find_model

from ..support.hub_uploads import BASE, CARD, REPO, TOKEN
from ..support.mistakes import changed

FILES = ["README.md", "adapter_config.json", "adapters.safetensors"]
PUSH = ["--base-model", BASE]


def test_the_listed_files_go_up_in_one_commit_and_the_address_is_printed(finished, hub, outcome):
    code, out, err = outcome("push", finished, REPO, *PUSH)
    assert code == 0, err
    assert sorted(hub.repos[REPO]) == [".gitattributes", *FILES]
    assert hub.commits == [(REPO, FILES, [])]
    weights = (finished / "adapters.safetensors").read_bytes()
    assert hub.repos[REPO]["adapters.safetensors"] == weights
    assert hub.sent == [hashlib.sha256(weights).hexdigest()]
    first, _, program, download, generate = out.splitlines()
    assert (first, program) == (f"uploaded: {hub.address}/{REPO}", "mlx_lm:")
    assert download == f"hf download {REPO} --local-dir tiny-dpo"
    assert generate.startswith(f"python -m mlx_lm generate --model {BASE} --adapter-path tiny-dpo")
    assert TOKEN not in out + err and not hub.private


def test_json_has_the_address_and_the_files(finished, hub, outcome):
    code, out, err = outcome("push", finished, REPO, *PUSH, "--private", "--json")
    assert code == 0, err
    assert json.loads(out) == {"address": f"{hub.address}/{REPO}", "files": FILES}
    assert hub.private == {REPO}


def test_the_same_push_again_changes_nothing(finished, hub, outcome):
    assert outcome("push", finished, REPO, *PUSH)[0] == 0
    assert outcome("push", finished, REPO, *PUSH)[0] == 0
    assert len(hub.commits) == len(hub.sent) == 1


@pytest.mark.parametrize("place", ["put", "commit", "answer"])
def test_after_a_cut_connection_the_next_push_sends_what_is_missing(place, finished, hub, outcome):
    hub.cut[place] = 99
    code, out, err = outcome("push", finished, REPO, *PUSH)
    assert (code, out) == (1, "") and "the upload broke off" in err and "give the same command again" in err
    assert "Traceback" not in err and TOKEN not in err
    assert sorted(hub.repos[REPO]) == [".gitattributes", *(FILES if place == "answer" else [])]
    hub.cut[place] = 0
    code, _, err = outcome("push", finished, REPO, *PUSH)
    assert code == 0, err
    assert sorted(hub.repos[REPO]) == [".gitattributes", *FILES]
    assert hub.commits == [(REPO, FILES, [])] and len(hub.sent) == 1


def test_a_connection_that_is_cut_once_is_taken_up_again_by_itself(finished, hub, outcome):
    hub.cut["put"] = 1
    code, _, err = outcome("push", finished, REPO, *PUSH)
    assert code == 0, err
    assert len(hub.sent) == len(hub.commits) == 1


def test_with_hf_xet_the_same_commit_is_made(finished, hub, outcome, tmp_path, monkeypatch):
    """Large files go to a store in a folder, by hf_xet itself."""
    pytest.importorskip("hf_xet")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.xet = tmp_path / "xet"
    code, _, err = outcome("push", finished, REPO, *PUSH)
    assert code == 0, err
    assert hub.commits == [(REPO, FILES, [])] and any(path.is_file() for path in hub.xet.rglob("*"))
    weights = (finished / "adapters.safetensors").read_bytes()
    assert hub.repos[REPO]["adapters.safetensors"].decode() == hashlib.sha256(weights).hexdigest()


def card(kind, adapter):
    """The smallest card of an upload."""
    return {
        "README.md": f"---\nmlx_dpo_kind: {kind}\nmlx_dpo_adapter: {adapter}\nlicense: mit\n---\n".encode()
    }


def send(hub, folder, kind, adapter, *names):
    """Upload files of these names; the names in the repository."""
    for name in names:
        (folder / name).write_text(f"{adapter} {name}")
    files = {**card(kind, adapter), **{name: folder / name for name in names}}
    upload(REPO, kind, adapter, files, private=False)
    return sorted({*hub.repos[REPO]} - {".gitattributes", "README.md"})


def test_a_new_upload_removes_every_file_of_the_one_before_that_it_does_not_send(hub, tmp_path, capsys):
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    send(hub, tmp_path, "fused", "a", *shards, "config.json", "chat_template.jinja", "likeness.json")
    hub.repos[REPO] |= {"photo.png": b"mine", "mine/config.json": b"mine"}
    left = send(hub, tmp_path, "fused", "a", "model.safetensors", "config.json")
    assert left == ["config.json", "mine/config.json", "model.safetensors", "photo.png"]
    assert f"removed from {REPO}" in capsys.readouterr().err


def test_several_gguf_files_of_one_adapter_are_offered_side_by_side(hub, tmp_path):
    send(hub, tmp_path, "gguf", "a", "a-f16.gguf", "Modelfile")
    assert send(hub, tmp_path, "gguf", "a", "a-q8_0.gguf") == ["a-f16.gguf", "a-q8_0.gguf"]
    assert send(hub, tmp_path, "gguf", "b", "a-q4_0.gguf") == ["a-q4_0.gguf"]


def test_a_public_repository_gets_nothing_that_should_be_private(finished, hub, outcome, mistake):
    assert outcome("push", finished, REPO, *PUSH)[0] == 0
    error = mistake(f"push desk/whole {REPO} --base-model {BASE} --private --samples 0")
    assert (error.where, error.code) == (REPO, "public") and "leave --private out" in error.hint
    assert len(hub.commits) == 1
    hub.private.add(REPO)
    assert outcome("push", finished, REPO, *PUSH, "--private", "--samples", "0")[0] == 0


def test_a_commit_of_somebody_else_during_the_upload_is_not_overwritten(finished, hub, mistake):
    hub.during["preupload"] = lambda repo: hub.repos[repo].update({"README.md": b"# theirs"})
    error = mistake(f"push desk/whole {REPO} --base-model {BASE}")
    assert (error.where, error.code) == (REPO, "changed") and "same command again" in error.hint
    assert hub.repos[REPO]["README.md"] == b"# theirs" and hub.commits == []


def test_a_file_that_is_removed_before_it_is_sent_is_told(hub, tmp_path):
    with pytest.raises(DpoError, match="was removed before it was uploaded") as told:
        upload(REPO, "gguf", "a", {**card("gguf", "a"), "a.gguf": tmp_path / "a.gguf"}, private=False)
    assert told.value.where == str(tmp_path / "a.gguf") and hub.asked == []


def test_a_mistake_of_ours_is_not_told_as_a_broken_connection(hub, tmp_path):
    (tmp_path / "a.gguf").write_text("a")
    with pytest.raises(AttributeError):
        upload(REPO, "gguf", "a", {**card("gguf", "a"), 3: tmp_path / "a.gguf"}, private=False)


def test_a_repository_with_other_content_is_refused_and_stays(finished, hub, mistake):
    hub.repos[REPO] = {"README.md": b"# mine", "model.safetensors": b"mine"}
    error = mistake(f"push desk/whole {REPO} --base-model {BASE}")
    assert (error.where, error.code) == (REPO, "exists")
    assert error.what.endswith("files that push did not write: README.md, model.safetensors")
    hub.repos[REPO] = {"README.md": b"---\nmlx_dpo_kind: fused\n---\n"}
    assert "has a fused model for mlx_lm" in mistake(f"push desk/whole {REPO} --base-model {BASE}").what
    assert hub.commits == [] and hub.sent == []


def test_without_a_token_or_without_the_right_to_write_one_line_says_so(finished, hub, mistake, monkeypatch):
    command = f"push desk/whole {REPO} --base-model {BASE}"
    hub.forbidden.add(REPO)
    error = mistake(command)
    assert (error.code, hub.repos) == ("not-allowed", {}) and "hf auth login" in error.hint
    asked = len(hub.asked)
    monkeypatch.delenv("HF_TOKEN")
    assert mistake(command).code == "no-token"
    assert len(hub.asked) == asked


def test_offline_mode_is_told(finished, hub, mistake, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = mistake(f"push desk/whole {REPO} --base-model {BASE}")
    assert error.where == "HF_HUB_OFFLINE" and "--dry-run" in error.hint and hub.asked == []


def test_the_licence_comes_from_the_bases_page_and_then_from_the_cache(finished, hub, outcome, mistake):
    (finished.parent / "model" / "README.md").unlink()
    dry = f"push desk/whole {REPO} --base-model {BASE} --dry-run --output out"
    assert mistake(dry).code == "no-licence"
    assert mistake(f"push desk/whole {REPO} --base-model {BASE}").code == "no-licence"
    hub.repos[BASE] = {"README.md": CARD.replace("other", "apache-2.0").encode()}
    assert outcome("push", finished, REPO, *PUSH)[0] == 0
    assert b"license: apache-2.0" in hub.repos[REPO]["README.md"]
    asked = len(hub.asked)
    assert outcome(*dry.split())[0] == 0 and len(hub.asked) == asked


def test_a_base_that_was_downloaded_brought_its_card(finished, hub, outcome):
    """So a dry run knows its licence, and what the command for it needs, without a request."""
    model = finished.parent / "model"
    hub.repos[BASE] = {path.name: path.read_bytes() for path in model.iterdir()}
    changed("config.yaml", f"path: {model}", f"path: {BASE}")(finished)
    find_model(BASE)
    asked = len(hub.asked)
    code, _, err = outcome("push", finished, REPO, "--dry-run", "--output", "out")
    assert (code, len(hub.asked)) == (0, asked), err
    card = Path("out/README.md").read_text()
    assert f"base_model: {BASE}" in card and "license_name: tiny" in card
    assert f"mlx_lm generate --model {BASE} --adapter-path tiny-dpo" in card


def test_a_licence_that_the_hub_does_not_know_is_told_in_its_words(finished, hub, mistake):
    error = mistake(f"push desk/whole {REPO} --base-model {BASE} --license my-own")
    assert (error.code, hub.commits, hub.sent) == ("refused", [], [])
    assert '"license" must be one of' in error.what and "--license" in error.hint
