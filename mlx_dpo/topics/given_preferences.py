"""Preferences from a file that the user gives."""

from collections.abc import Mapping
from pathlib import Path

from ..console import plural, say
from ..errors import DpoError
from ..storage.reading import is_there, path_text
from .preference_files import LINES, read_preferences, write_preferences
from .topic_words import KNOWN, TopicWords
from .win_lose import WinLose


def read_given(file: str, topics: int, number: Mapping[str, int]) -> dict[int, WinLose]:
    """The preferences in the file, as by `read_preferences`.

    Raises:
        DpoError: a line is wrong, or no topic has winners and losers.
    """
    found = read_preferences(file, topics, number)
    if not found:
        raise DpoError("has no preferences", where=path_text(file), hint=LINES)
    if not any(own.win and own.lose for own in found.values()):
        hint = "both lists of a topic need words, and a word in both of them counts in neither"
        raise DpoError("no topic has winners and losers", where=path_text(file), hint=hint)
    return found


def take_given(file: str, path: Path, words: TopicWords, number: Mapping[str, int]) -> dict[int, WinLose]:
    """The preferences in the file, which are written to `path`, but never over others.

    Warns if few of the losers are among the top words of their topics.

    Args:
        words: the top words of the snapshot.
        number: the index of each word.

    Raises:
        DpoError: as `read_given`; or `path` has others.
    """
    topics = len(words.top)
    found = read_given(file, topics, number)
    if is_there(path) and read_preferences(path, topics, number) != found:
        raise DpoError(
            f"has other preferences than {path_text(file)}",
            where=path_text(path),
            hint="set preferences.file=null to use them, or delete them to use the file",
        )
    losers = [(k, index) for k, own in found.items() for index in own.lose]
    known = sum(index in words.indices(k, 0, KNOWN) for k, index in losers)
    if known < len(losers) / 2:
        say(
            f"WARNING: only {known:,} of the {plural(len(losers), 'loser')} in {path_text(file)} are among "
            f"the top {KNOWN} words of their topics; the file seems to be of another run"
        )
    write_preferences(path, found)
    return found
