"""Name, licence and model card of a base model, as others know it."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from ..errors import DpoError
from ..models.load import cached_model
from ..storage.reading import expanded, is_there, read_text

CARD = "README.md"
_SNAPSHOT = re.compile(r"models--(.+?)--(.+)")
_LICENCE = ("license", "license_name", "license_link")


def front_matter(card: Path) -> dict[str, Any]:
    """The metadata at the start of a model card; empty if there is no card, or no metadata in it."""
    match = re.match(r"---\r?\n(.*?)\n---", read_text(card), re.DOTALL) if is_there(card) else None
    try:
        about = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return {}
    return about if isinstance(about, dict) else {}


def card_base(folder: Path) -> str | None:
    """The base model that the card in a model's folder names."""
    name = front_matter(folder / CARD).get("base_model")
    name = name[0] if isinstance(name, list) and name else name
    return name if isinstance(name, str) and name else None


def hub_name(path: str) -> str | None:
    """The name on the Hub of a model that settings name like this; None if its origin is not known.

    A folder in the cache of huggingface-hub has the model's name in its path. Two words that name no folder
    here may name one elsewhere, so they are a name on the Hub only if its cache has such a model.
    """
    folder = expanded(path)
    if not is_there(folder):
        return path if path.count("/") == 1 and path[:1] not in "./~" and cached_model(path) else None
    matches = (_SNAPSHOT.fullmatch(part) for part in folder.absolute().parts)
    return next((f"{match[1]}/{match[2]}" for match in matches if match), None)


def known_base(path: str, given: str | None) -> str:
    """The base model's name on the Hub: as given, else as `hub_name` finds it.

    Raises:
        DpoError: it is not known, or is not a name on the Hub.
    """
    from huggingface_hub.utils import validate_repo_id

    name = given or hub_name(path)
    if name is None:
        folder = expanded(path)
        about = card_base(folder) if is_there(folder) else None
        what = "is a folder" if is_there(folder) else "is neither a folder here nor in the Hub's cache"
        raise DpoError(
            f"the base model {what}, so its name on the Hub is not known",
            where=path,
            hint=f"name it with --base-model {about or 'ORGANISATION/MODEL'}"
            + (f"; the folder's own card says that it was made from {about}" if about else ""),
            code="no-base-name",
        )
    with suppress(ValueError):  # HFValidationError is one
        validate_repo_id(name)
        if name.count("/") == 1:
            return name
    raise DpoError(
        "is not the name of a model on the Hub", where=name, hint="write --base-model ORGANISATION/MODEL"
    )


def licence_of(path: str, name: str, *, online: bool) -> dict[str, Any]:
    """The licence fields of the base's card: in its folder, else in the Hub's cache, else on the Hub.

    Args:
        path: the base as settings name it; `name`: its name on the Hub.
        online: whether the Hub may be asked.

    Raises:
        DpoError: no card is found, or it names no licence.
    """
    folder = expanded(path)
    about = front_matter(folder / CARD) if is_there(folder) else {}
    if "license" not in about and (card := _card_on_the_hub(name, online)):
        about = front_matter(card)
    found = {key: about[key] for key in _LICENCE if about.get(key)}
    if "license" not in found:
        asked = "" if online else " in its folder or in the Hub's cache (a dry run does not ask the Hub)"
        raise DpoError(
            f"the licence of the base model is not known: no model card that names it was found{asked}",
            where=name,
            hint="look it up on the model's page, and give it: --license apache-2.0",
            code="no-licence",
        )
    return found


def _card_on_the_hub(name: str, online: bool) -> Path | None:
    """The model's card, from the cache or by a request; None if there is none or the Hub is out of reach."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if isinstance(cached := try_to_load_from_cache(name, CARD), str):
        return Path(cached)
    if not online:  # hf_hub_download may make a request even if only local files are allowed
        return None
    try:
        return Path(hf_hub_download(name, CARD))
    except Exception:  # errors of the Hub client or of its HTTP library, or OSError: in any case no card
        return None
