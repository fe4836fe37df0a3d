"""Upload a run's result with a model card: what leaves the machine, and the card, are settled first."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ..config import RunConfig, load_config
from ..console import plural, say
from ..errors import DpoError, first_ten
from ..export.base_card import CARD, known_base, licence_of
from ..export.file_lists import KINDS, files_of
from ..export.fuse_report import read_report
from ..export.how_to_run import Pushed, Recipe, recipes
from ..export.hub_upload import check_login, check_repo_name, upload
from ..export.lm_studio import put_in_lm_studio
from ..export.local_paths import check_no_paths, own_folders, without_local_paths
from ..export.made_from import MadeFrom, check_files, check_made_from, read_made_from
from ..export.model_card import CardFacts, model_card
from ..export.start import check_target
from ..models.adapter_checksum import KEY as CHECKSUM
from ..models.adapter_checksum import stamped
from ..models.adapters import CONFIG, WEIGHTS, read_adapter_config
from ..models.load import cached_model, load_tokenizer
from ..models.mlx_lm_command import generate_command
from ..models.peft_adapter import check_adapter
from ..printed_commands import command_line
from ..storage.checksummed_folder import sha256
from ..storage.files import bytes_to_copy, check_writable, link_or_copy, replace_folder
from ..storage.reading import entries, expanded, is_there, read_object
from .card_facts import run_facts
from .open_run import SETTINGS, TEMPLATE, say_if_unfinished
from .report import read_run

_WITH_PATHS = ("config.json", "generation_config.json", "tokenizer_config.json", CONFIG)
"""JSON files that may name paths of this machine; the others are tables of a tokenizer or of tensors."""


@dataclass(frozen=True)
class Upload:
    """What leaves the machine: name in the repository -> a file, or its content; README.md is the card.

    `kind`: one of KINDS. `adapter`: SHA-256 of the run's adapter. `recipes`: how to run it.
    """

    repo: str
    kind: str
    adapter: str
    files: Mapping[str, Path | bytes]
    recipes: list[Recipe]


def push(source: Path | str, repo: str, *, private: bool = False, **asked: Any) -> tuple[Upload, str]:
    """Upload a run's adapter, or what fuse or export made of a run; what was sent, and its address.

    Args:
        repo: OWNER/NAME.
        private: a new repository is private.
        asked: as for `prepared`.

    Raises:
        DpoError: as `prepared`, `check_login` and `upload`.
    """
    check_repo_name(repo)
    check_login()
    made = prepared(source, repo, online=True, **asked)
    return made, upload(repo, made.kind, made.adapter, made.files, private=private)


def dry_run(source: Path | str, repo: str, output: Path | str, **asked: Any) -> Upload:
    """Write a folder with everything that `push` would upload, and make no request.

    Raises:
        DpoError: as `prepared`; or the output exists, or the disk is full.
    """
    check_repo_name(repo)
    output = expanded(output)
    check_target(output)
    made = prepared(source, repo, online=False, **asked)
    on_disk = [own for own in made.files.values() if isinstance(own, Path)]
    check_writable(output, bytes_to_copy(on_disk, output))

    def write(folder: Path) -> None:
        for name, own in made.files.items():
            if isinstance(own, bytes):
                (folder / name).write_bytes(own)
            else:
                link_or_copy(own, folder / name)

    replace_folder(output, write)
    return made


def lm_studio(source: Path | str, repo: str) -> Path:
    """Put a fused model or a GGUF where LM Studio looks; see `export.lm_studio.put_in_lm_studio`.

    Raises:
        DpoError: as `put_in_lm_studio`, or the folder is not one of fuse or export.
    """
    check_repo_name(repo)
    source = expanded(source)
    kind, made = _kind_of(source)
    if made:
        check_files(source, made)
    return put_in_lm_studio(source, kind, repo)


def prepared(
    source: Path | str,
    repo: str,
    *,
    online: bool,
    run: str | None = None,
    base_model: str | None = None,
    licence: str | None = None,
    samples: int = 3,
) -> Upload:
    """Settle what leaves the machine, and write the card.

    Args:
        source: a run folder, or a folder that fuse or export wrote.
        online: whether the Hub may be asked for the card of the base model.
        run: the run from which `source` was made; by default the one that it names.
        base_model: the base model's name on the Hub; needed where the run names a folder.
        licence: the base model's licence, where its model card is not found.
        samples: number of sampled answers on the card.

    Raises:
        DpoError: not such a folder, another run's, a damaged adapter, an unknown base or licence, or a file
            with a path of this machine.
    """
    source = expanded(source)
    kind, made = _kind_of(source)
    folder = _run_of(source, made, run)
    files = files_of(source, KINDS[kind])
    peft = _peft(source) if kind == "peft" else None
    record, config = read_run(folder), load_config(folder / SETTINGS)
    say_if_unfinished(folder, config)
    path = peft["base_model_name_or_path"] if peft else config.model.path
    base = known_base(path, base_model)
    terms = {"license": licence} if licence else licence_of(path, base, online=online)
    facts = run_facts(folder, config, record, samples)
    sent = {file.name: _content(file, base) for file in files}
    generate = _generate(kind, source, repo, base, config)
    own_template = KINDS[kind].relation == "adapter" and TEMPLATE in sent
    how = recipes(kind, Pushed(repo, base, list(sent), generate, own_template, peft))
    likeness = read_report(source) if kind == "fused" else None
    checks = made.checks if made else {}
    adapter = made.adapter if made else sha256(source / WEIGHTS)
    card = model_card(CardFacts(repo, kind, adapter, base, terms, facts, likeness, checks, how))
    own = own_folders(source, folder, *([expanded(path)] if is_there(expanded(path)) else []))
    for name, content in {CARD: card.encode(), **sent}.items():
        check_no_paths(name, content, own)
    stays = [file.name for file in entries(source) if file.name not in {*sent, CARD}]
    _say_what_leaves([CARD, *sent], stays, len(facts.samples))
    return Upload(repo, kind, adapter, {CARD: card.encode(), **sent}, how)


def _kind_of(source: Path) -> tuple[str, MadeFrom | None]:
    """The kind of a folder, and what it says of its run; None for a run itself.

    Raises:
        DpoError: it is neither a run nor an export.
    """
    if not is_there(source):
        hint = "give a run folder, or a folder of mlx-dpo fuse or mlx-dpo export"
        raise DpoError("no such folder", where=source, hint=hint)
    if made := read_made_from(source):
        return made.kind, made
    if is_there(source / SETTINGS):
        return "adapter", None
    raise DpoError(
        "is neither a run folder nor a folder that names the run it was made from",
        where=source,
        hint="make it again with mlx-dpo fuse or mlx-dpo export, which write made_from.json into it",
    )


def _run_of(source: Path, made: MadeFrom | None, given: str | None) -> Path:
    """The run from which a folder was made.

    Raises:
        DpoError: the run has another adapter, or a damaged one, or the folder is damaged.
    """
    if made:
        folder = expanded(given) if given else made.run
        check_made_from(source, made, folder)
        check_files(source, made)
        return folder
    if given and expanded(given).resolve() != source.resolve():
        hint = "leave --run out, or give the folder that was made from it"
        raise DpoError("is a run itself", where=source, hint=hint)
    read_adapter_config(source)
    return source


def _peft(source: Path) -> dict[str, Any]:
    """The content of a PEFT adapter's config.

    Raises:
        DpoError: it is damaged, or names no base model.
    """
    check_adapter(source)
    content = read_object(source / CONFIG)
    if not isinstance(content.get("base_model_name_or_path"), str):
        hint = "make it again with mlx-dpo export peft"
        raise DpoError("names no base model", where=source / CONFIG, hint=hint)
    return content


def _content(file: Path, base: str) -> Path | bytes:
    """The file; its content without paths of this machine, if there were any.

    Raises:
        DpoError: it has a path whose removal might change the model.
    """
    if file.name not in _WITH_PATHS:
        return file
    before = read_object(file)
    after = without_local_paths(before, base, file)
    if after == before:
        return file
    if CHECKSUM in after:
        after = stamped({key: value for key, value in after.items() if key != CHECKSUM})
    return (json.dumps(after, indent=1, ensure_ascii=False) + "\n").encode()


def _generate(kind: str, source: Path, repo: str, base: str, config: RunConfig) -> str:
    """The command of mlx_lm for the uploaded model; with the flags that it needs if its tokenizer is here."""
    longest = config.generate.max_tokens
    adapter = PurePath(repo).name if kind == "adapter" else None
    model = base if adapter else repo
    folder = cached_model(config.model.path) if adapter else source
    if folder and kind in ("adapter", "fused", "hf"):
        return generate_command(model, folder, load_tokenizer(folder), longest, adapter)
    words = ["python", "-m", "mlx_lm", "generate", "--model", model]
    words += ["--adapter-path", adapter] if adapter else []
    return f'{command_line([*words, "--max-tokens", str(longest)])} --prompt "..."'


def _say_what_leaves(sent: list[str], stays: list[str], samples: int) -> None:
    say(f"leaves this machine: {', '.join(sent)}")
    if stays:
        say(f"stays here: {first_ten(stays)}")
    if samples:
        say(
            f"note: the card shows {plural(samples, 'held-out prompt')} with the model's answers; "
            "--samples 0 leaves them out"
        )
