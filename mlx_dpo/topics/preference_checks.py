"""Checks before slow work that preferences can be built."""

from ..errors import DpoError
from ..judges.connected import check_local_model, connected
from ..models.embedder import check_embedder, embed
from .corpus import Corpus
from .given_preferences import read_given
from .preferences_config import SECTION, PreferencesConfig


def check_preferences(settings: PreferencesConfig, topics: int, corpus: Corpus) -> None:
    """Check the settings of the preferences, as far as nothing is loaded and no server is needed.

    Raises:
        DpoError: the file of preferences does not fit, or there are no embedders.
    """
    if settings.file is not None:
        read_given(settings.file, topics, corpus.number)
    else:
        check_embedder(settings.embedder, f"{SECTION}.embedder", f"{SECTION}.embedder=null")


def check_models(settings: PreferencesConfig) -> None:
    """Check that the LLM can be asked and the embedder be loaded, if preferences need them.

    Raises:
        DpoError: the server cannot be reached, or there is no such local model or embedder.
    """
    if settings.file is not None:
        return
    if settings.embedder is not None:
        try:
            embed([], settings.embedder)
        except DpoError as error:
            what = f"{settings.embedder} {error.what}"
            raise error.instead(what=what, where=f"{SECTION}.embedder") from None
    if settings.url is not None:
        connected(settings, SECTION)
    elif settings.model is not None:
        check_local_model(settings, SECTION)
