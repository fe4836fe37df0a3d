"""Upload files to a repository on the Hub, in one commit: it has all of them, or what it had before."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .. import __version__
from ..console import say
from ..errors import DpoError, first_line, first_ten
from ..storage.reading import is_there
from .file_lists import KINDS, Kind
from .model_card import ADAPTER_KEY, KIND_KEY

_EVERY_REPO = {".gitattributes"}
"""Files that the Hub itself puts into a new repository."""


def check_repo_name(repo: str) -> None:
    """Check that this can be the name of a repository: OWNER/NAME.

    Raises:
        DpoError: it cannot.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    hint = "write OWNER/NAME, where OWNER is your user name or your organisation on the Hub"
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise DpoError("is not the name of a repository", where=repo, hint=hint) from None
    if repo.count("/") != 1:
        raise DpoError("has no owner", where=repo, hint=hint)


def check_login() -> None:
    """Check that there is a token, and that the Hub may be asked.

    Raises:
        DpoError: there is none, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise DpoError(
            "forbids requests to the Hub",
            where="HF_HUB_OFFLINE",
            hint="unset it, or see what would be uploaded: --dry-run",
        )
    if not get_token():
        raise DpoError(
            "no token for the Hub",
            where="mlx-dpo push",
            hint="log in with: hf auth login; or set HF_TOKEN to a token that may write",
            code="no-token",
        )


def upload(repo: str, kind: str, adapter: str, files: Mapping[str, Path | bytes], *, private: bool) -> str:
    """Make the repository if it is missing, and commit the files; its address.

    Large files are sent first, and those that the Hub has already are not sent again. The commit then names
    all files at once. So if the connection breaks, the repository is unchanged, and the next call sends what
    is missing. Files of an earlier upload that are not sent again are removed in the same commit.

    Args:
        kind: one of KINDS.
        adapter: SHA-256 of the run's adapter, as in the card among `files`.
        files: name in the repository -> a file, or its content.

    Raises:
        DpoError: the repository has other content, is public although `private` was asked for, or was changed
            by somebody else meanwhile; a file is gone, the token may not write, or the connection broke.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    _check_there(files)
    api = HfApi(library_name="mlx-dpo", library_version=__version__)
    with _told(repo):
        held = _existing(api, repo)
        if held is None:
            api.create_repo(repo, private=private or None, exist_ok=True)
            held = api.model_info(repo)
        _check_ours(held, repo, kind)
        if private and not held.private:
            raise DpoError(
                "is public, but --private was given",
                where=repo,
                hint="make it private on the Hub, choose another name, or leave --private out",
                code="public",
            )
        stale = _stale(held, KINDS[kind], adapter, files)
        if stale:
            say(f"removed from {repo}, because the new upload does not have it: {first_ten(stale)}")
        operations: list[Any] = [CommitOperationAdd(name, own) for name, own in files.items()]
        operations += [CommitOperationDelete(name) for name in stale]
        message = f"Upload {KINDS[kind].what} with mlx_dpo"
        api.create_commit(repo, operations, commit_message=message, parent_commit=held.sha)
    return f"{api.endpoint}/{repo}"


def _check_there(files: Mapping[str, Path | bytes]) -> None:
    """Check that every file to send is there.

    Raises:
        DpoError: one is not.
    """
    for own in files.values():
        if isinstance(own, Path) and not is_there(own):
            hint = "leave the folder as it is until push has ended, and give the same command again"
            raise DpoError("was removed before it was uploaded", where=own, hint=hint)


def _existing(api: Any, repo: str) -> Any:
    """What the Hub says of the repository; None if there is none that the token may see."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.model_info(repo)
    except RepositoryNotFoundError:
        return None


def _names(info: Any) -> list[str]:
    return [sibling.rfilename for sibling in info.siblings or []]


def _check_ours(info: Any, repo: str, kind: str) -> None:
    """Check that the repository is empty, or that an earlier upload of the same kind filled it.

    Raises:
        DpoError: it has other content.
    """
    held = (info.card_data or {}).get(KIND_KEY)
    others = sorted({*_names(info)} - _EVERY_REPO)
    if not others or held == kind:
        return
    what = KINDS[held].what if held in KINDS else f"files that push did not write: {first_ten(others)}"
    raise DpoError(
        f"exists already and has {what}",
        where=repo,
        hint="choose another name; an upload only replaces an earlier one of the same kind",
        code="exists",
    )


def _stale(info: Any, kind: Kind, adapter: str, files: Mapping[str, Path | bytes]) -> list[str]:
    """Files of an earlier upload that do not belong to this one.

    Several GGUF files are offered side by side if they are of the same adapter: one card is true of all.
    """
    beside = not kind.replaces and (info.card_data or {}).get(ADAPTER_KEY) == adapter
    ours = kind.others if beside else (*kind.weights, *kind.others)
    names = [name for name in _names(info) if name not in files and "/" not in name]
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in ours)]


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Within it, errors of the Hub become errors for the user.

    Raises:
        DpoError: instead.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError

    try:
        yield
    # HTTPError: of its HTTP library. ValueError: the Hub refuses a card. RuntimeError: of hf_xet.
    except (HfHubHTTPError, HTTPError, OSError, ValueError, RuntimeError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403) or isinstance(error, RepositoryNotFoundError):
            raise DpoError(
                f"the Hub does not let this token write here: {first_line(error)}",
                where=repo,
                hint="check the owner's name; log in with a token that may write: hf auth login",
                code="not-allowed",
            ) from None
        if status == 412:
            raise DpoError(
                "was changed by somebody else during the upload, so nothing was committed",
                where=repo,
                hint="look at what is new there, and give the same command again",
                code="changed",
            ) from None
        if isinstance(error, ValueError):  # what the Hub says of the card, or of a large file
            raise DpoError(
                f"the Hub refuses the upload: {' '.join(str(error).split())}",
                where=repo,
                hint="mend what it names (--license takes the Hub's short name of a licence), and push again",
                code="refused",
            ) from None
        raise DpoError(
            f"the upload broke off: {first_line(error)}",
            where=repo,
            hint="the repository has all files or what it had before; give the same command again, and only "
            "what is missing is sent",
            code="broke-off",
        ) from None
