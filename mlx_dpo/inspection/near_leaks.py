"""Held-out prompts that ask nearly the same as a prompt that is trained on, found by an embedder."""

from ..data.prompt_clusters import asked, nearest
from ..data.row_index import RowIndex
from ..models.embedder import embed
from .defects import KINDS, WARNING, Defect, Kind, defect

NEAR_LEAK = "near-leak"
KINDS[NEAR_LEAK] = Kind(
    WARNING,
    "the training file asks nearly the same, so held-out numbers may be too good",
    "remove the row from one of the two files; gen-pairs and judge keep such prompts together",
)


def near_leaks(train: RowIndex, held: RowIndex, embedder: str, least: float, exact: set[str]) -> list[Defect]:
    """Held-out rows whose prompt has a cosine of at least `least` with a prompt of the training file.

    Args:
        exact: places of rows whose very prompt is in the training file; they are left out here.

    Raises:
        DpoError: as `embed`.
    """
    trained, held_out = (  # row by row: the index leaves out the rows that are refused
        embed([asked(index.read(row).prompt) for row in range(len(index))], embedder)
        for index in (train, held)
    )
    found = []
    for row, (other, cosine) in enumerate(zip(*nearest(held_out, trained), strict=True)):
        if cosine >= least and held.where(row) not in exact:
            what = f"{train.where(other)} asks nearly the same (similarity {cosine:.2f})"
            found.append(defect(held.where(row), NEAR_LEAK, what))
    return found
