"""What is shown of an exported model."""

from collections.abc import Mapping

from ..console import show


def show_exported(where: str, result: Mapping[str, str]) -> None:
    """A whole model's export: its place, its proof and, if it was compared, its distance from the adapter.

    Args:
        result: as `jobs.export` returns it.
    """
    show(f"exported model: {where}")
    show(result["proof"])
    if "compared" in result:
        show(f"compared with the adapter: {result['compared']}")
