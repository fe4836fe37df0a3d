"""Where LM Studio looks for models, and how a folder gets there."""

from contextlib import suppress
from pathlib import Path

from ..errors import DpoError
from ..storage.files import bytes_to_copy, check_writable, link_or_copy, replace_folder
from ..storage.reading import is_folder, is_there, read_object, read_text
from .file_lists import KINDS, files_of
from .start import check_target

READS = ("fused", "gguf")
"""Kinds of folders that LM Studio loads: it has no adapters."""


def models_folder() -> Path:
    """The folder of LM Studio's models: as its settings say, else `models` in its own folder.

    Raises:
        DpoError: LM Studio has never been started here.
    """
    home = Path.home()
    pointer = home / ".lmstudio-home-pointer"
    told = read_text(pointer).strip() if is_there(pointer) else ""
    places = [_at_home(told)] if told else [home / ".cache" / "lm-studio", home / ".lmstudio"]
    own = next((place for place in places if is_folder(place)), None)
    if own is None:
        raise DpoError(
            "no such folder: LM Studio has not been started on this machine",
            where=places[-1],
            hint="start LM Studio once, then give the command again",
        )
    with suppress(DpoError):  # LM Studio itself then takes its default
        chosen = read_object(own / "settings.json").get("downloadsFolder")
        if isinstance(chosen, str) and chosen:
            return _at_home(chosen)
    return own / "models"


def _at_home(name: str) -> Path:
    """The folder of this name; a name that is not absolute counts from the home folder."""
    return Path.home() / Path(name).expanduser()


def put_in_lm_studio(source: Path, kind: str, repo: str) -> Path:
    """Link or copy a model's files to OWNER/NAME in LM Studio's folder, where they appear all at once.

    Raises:
        DpoError: LM Studio does not load this kind, is not there, has such a model, or the disk is full.
    """
    if kind not in READS:
        raise DpoError(
            f"is {KINDS[kind].what}, which LM Studio does not load",
            where=source,
            hint="give it a folder of mlx-dpo fuse or of mlx-dpo export gguf",
            code="not-for-lm-studio",
        )
    files, target = files_of(source, KINDS[kind]), models_folder() / repo
    check_target(target, "remove it, or choose another OWNER/NAME")
    check_writable(target, bytes_to_copy(files, target))
    replace_folder(target, lambda beside: [link_or_copy(file, beside / file.name) for file in files])
    return target
