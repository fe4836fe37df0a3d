"""The precisions of a fused model, and how like the adapter it must be."""

from ..errors import DpoError, quoted

PRECISIONS = {
    "auto": "the smallest of all these that behaves like the adapter",
    "plain": "unquantised, in the dtype of the base",
    "4": "the trained layers at 4 bits",
    "6": "at 6 bits",
    "8": "at 8 bits",
    "mixed": "each trained layer at 4 bits, at 8 or unquantised, as small as passes",
}
"""On a quantised base, its own number of bits takes the place of 4 in `auto` and `mixed`."""

MAX_KL_RATIO = 0.1
"""Largest KL(adapter || fused) / KL(adapter || base) of a fused model that is written, by default."""


def check_precision(precision: str, max_kl_ratio: float) -> None:
    """Check the two choices of a fuse.

    Raises:
        DpoError: an unknown precision, or a ratio that nothing can pass.
    """
    if precision not in PRECISIONS:
        raise DpoError(
            f"cannot be {quoted(precision)}", where="precision", hint=f"one of {', '.join(PRECISIONS)}"
        )
    check_ratio(max_kl_ratio)


def check_ratio(max_kl_ratio: float) -> None:
    """Check the limit of a comparison with the adapter.

    Raises:
        DpoError: nothing can pass it.
    """
    if not max_kl_ratio > 0:
        raise DpoError(
            f"must be above 0, got {quoted(max_kl_ratio)}", where="max_kl_ratio", hint="0.1 is usual"
        )
