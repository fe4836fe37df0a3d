"""The model that settings name: on a server, or in this process."""

from ..endpoint import Endpoint
from .config import PaidEndpointConfig
from .local import LocalJudge


def connected(settings: PaidEndpointConfig, section: str) -> Endpoint | LocalJudge:
    """The model of the settings, ready to be asked.

    Args:
        section: the section of the settings, for messages.

    Raises:
        DpoError: the server cannot be reached, or the local model cannot be loaded.
    """
    model = LocalJudge(settings.model or "") if settings.url is None else Endpoint(settings, section)
    model.check()
    return model
