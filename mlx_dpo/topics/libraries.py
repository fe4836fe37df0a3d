"""The libraries of the extra `topics`."""

from importlib.util import find_spec

from ..errors import DpoError

_PACKAGES = {"scipy": "scipy", "sklearn": "scikit-learn", "gensim": "gensim"}


def check_libraries() -> None:
    """Check, before slow work, that the libraries which topic models need are installed.

    Raises:
        DpoError: one is missing; the hint installs it.
    """
    for module, package in _PACKAGES.items():
        if find_spec(module) is None:
            raise DpoError(f"topic models need {package}", hint="pip install 'mlx-dpo[topics]'")
