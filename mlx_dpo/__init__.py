"""mlx_dpo: preference fine-tuning on Apple silicon, from curated answers to a fused model."""

from .machine.blas import preload as _preload
from .machine.gpu_timeout import relax as _relax

__version__ = "0.1.0"

_relax()
blas_note: str | None = _preload()
"""What a user should know about this machine's float32 speed, or None when all is well."""

from .errors import DpoError  # noqa: E402  (MLX may only be imported after the BLAS is loaded)

__all__ = ["DpoError", "__version__", "blas_note"]
