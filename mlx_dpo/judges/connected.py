"""The model that settings name: on a server, or in this process."""

from ..endpoint import Endpoint
from ..errors import DpoError
from ..models.load import find_model
from .config import PaidEndpointConfig
from .local import LocalJudge


def connected(settings: PaidEndpointConfig, section: str) -> Endpoint | LocalJudge:
    """The model of the settings, ready to be asked.

    Args:
        section: the section of the settings, for messages.

    Raises:
        DpoError: the server cannot be reached, or the local model cannot be found or loaded.
    """
    if settings.url is None:
        check_local_model(settings, section)
        model = LocalJudge(settings.model or "")
    else:
        model = Endpoint(settings, section)
    model.check()
    return model


def check_local_model(settings: PaidEndpointConfig, section: str) -> None:
    """Check that there is the local model of the settings; it is downloaded if it is on the Hub.

    Raises:
        DpoError: there is none, or it cannot be used.
    """
    try:
        find_model(settings.model or "")
    except DpoError as error:
        raise error.instead(hint=error.hint.replace("model.path", f"{section}.model")) from None
