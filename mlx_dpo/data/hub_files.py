"""Data sets on the Hub: the Parquet files of one split, downloaded into the cache of huggingface-hub."""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..console import plural, say
from ..errors import DpoError, first_line

_NAME = re.compile(
    r"(?P<scheme>hf://datasets/)?(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:/(?P<config>[\w.-]+))?"
    r"(?:@(?P<revision>[\w./-]+?))?(?::(?P<split>[\w.-]+))?"
)
_FILES = re.compile(r"\.(jsonl?|ndjson|csv|tsv|txt|ya?ml|parquet|arrow|feather|gz|bz2|xz|zst|zip)$")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(-[0-9a-f]+)?$")
_CONVERTED = "refs/convert/parquet"
"""The branch with Parquet files that the Hub makes of a data set in another form."""
_DOWNLOAD = "check the name and the connection, or download its files and give their folder"


class _Wanted(NamedTuple):
    """A data set: its name, the name of a configuration or "", a revision or "", and a split."""

    repo: str
    config: str
    revision: str
    split: str


def is_hub_name(name: str) -> bool:
    """Whether this could be the name of a data set: org/name, org/name:split, hf://datasets/org/name."""
    found = _NAME.fullmatch(name)
    if not found or name.startswith((".", "/", "~")):
        return False
    return bool(found["scheme"]) or not (_FILES.search(name) or found["config"])


@cache
def hub_files(name: str) -> list[tuple[Path, str]]:
    """The Parquet files of a data set, each with its name for messages; the revision is printed.

    It is looked up once, so that a command uses one revision.

    org/name, org/name:SPLIT, org/name@REVISION:SPLIT, hf://datasets/org/name/CONFIGURATION:SPLIT; the split
    is train if none is named.

    Raises:
        DpoError: no such data set or split, or it cannot be downloaded.
    """
    found = _NAME.fullmatch(name)
    if not found:
        hint = "write hf://datasets/org/name, with :split at the end for another split than train"
        raise DpoError("is not the name of a data set on the Hub", where=name, hint=hint)
    wanted = _Wanted(*(found[part] or "" for part in ("repo", "config", "revision", "split")))
    wanted = wanted._replace(split=wanted.split or "train")
    sha, folder, files = _downloaded(wanted, name)
    say(f"{wanted.repo}: {wanted.split} split, {plural(len(files), 'Parquet file')}, revision {sha}")
    return [(folder / file, f"{wanted.repo}/{file}") for file in files]


def _downloaded(wanted: _Wanted, name: str) -> tuple[str, Path, list[str]]:
    """The revision, the local folder, and the files in it; without a connection, what is in the cache."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    revisions = [wanted.revision] if wanted.revision else ["main", _CONVERTED]
    download = partial(snapshot_download, wanted.repo, repo_type="dataset")
    try:
        for revision in revisions:
            siblings = HfApi().dataset_info(wanted.repo, revision=revision).siblings
            listed = [one.rfilename for one in siblings or ()]
            if any(file.endswith(".parquet") for file in listed):
                break
        files = of_split(listed, wanted, name)
        folder = Path(download(revision=revision, allow_patterns=files))
        return folder.name, folder, files
    except RepositoryNotFoundError:
        what = "no such file or folder, and no such data set on the Hub"
        raise DpoError(what, where=name, hint=_DOWNLOAD) from None
    except HfHubHTTPError as error:
        raise DpoError(f"cannot be downloaded: {first_line(error)}", where=name, hint=_DOWNLOAD) from None
    except DpoError:
        raise
    except Exception as error:  # no connection: the HTTP library below huggingface-hub differs by version
        reason = first_line(error)
    stems = [f"{above}{wanted.split}{more}" for above in ("", "*/") for more in (".", "-*.", "/*.")]
    likely = [f"{stem}parquet" for stem in stems]
    for revision in revisions:
        with suppress(OSError, ValueError):  # not in the cache
            folder = Path(download(revision=revision, allow_patterns=likely, local_files_only=True))
            listed = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.parquet"))]
            return folder.name, folder, of_split(listed, wanted, name)
    what = f"no such file or folder, and no data set of this name in the cache; the Hub: {reason}"
    raise DpoError(what, where=name, hint=_DOWNLOAD)


def of_split(listed: Sequence[str], wanted: _Wanted, name: str) -> list[str]:
    """The Parquet files of the wanted configuration and split, all shards of it, in order.

    data/train-00000-of-00002.parquet, CONFIGURATION/train/0000.parquet, train.parquet

    Raises:
        DpoError: there are none, several configurations have the split, or shards are missing.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for file in sorted(listed):
        if file.endswith(".parquet"):
            found.setdefault(_config_and_split(file), []).append(file)
    configs = sorted(config for config, split in found if split == wanted.split)
    if wanted.config:
        configs = [config for config in configs if config == wanted.config]
    if len(configs) > 1 and "default" in configs:
        configs = ["default"]
    if not configs:
        splits = ", ".join(sorted({f"{config}:{split}".lstrip(":") for config, split in found}))
        hint = f"the data set has {splits}" if splits else "it has no Parquet files: download its files"
        raise DpoError(f"has no split {wanted.split!r}", where=name, hint=hint)
    if len(configs) > 1:
        hint = f"name one: hf://datasets/{wanted.repo}/{configs[0]}:{wanted.split}"
        what = f"has several configurations with this split: {', '.join(configs)}"
        raise DpoError(what, where=name, hint=hint)
    files = found[configs[0], wanted.split]
    shards = _SHARD.search(PurePosixPath(files[0]).stem)
    if shards and len(files) != int(shards[2]):
        what = f"{len(files)} of {int(shards[2])} files of the split are there"
        raise DpoError(what, where=name, hint="connect to the network and give the command again")
    return files


def _config_and_split(file: str) -> tuple[str, str]:
    path = PurePosixPath(file)
    split, above = _SHARD.sub("", path.stem), list(path.parts[:-1])
    if split.isdigit() and above:
        split = above.pop()
    return "/".join(part for part in above if part != "data"), split
