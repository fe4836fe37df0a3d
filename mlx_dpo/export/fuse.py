"""Write a fused model as a folder that mlx_lm loads without an adapter."""

from pathlib import Path

from ..console import say
from ..data.conversation_tokens import end_of_turn
from ..errors import DpoError
from ..models.adapters import read_adapter_config
from ..models.end_of_turn import mlx_lm_stops
from ..models.load import ModelConfig, find_model, weight_bytes
from ..storage.files import check_writable, replace_folder
from ..storage.reading import files_in, is_there
from .end_of_turn_files import list_end
from .fused_model import FusedModel, fused_model


def fuse_run(
    model_path: str, adapter: Path | str, output: Path | str, asked: ModelConfig | None = None
) -> Path:
    """Write base weights plus adapter as a model folder in hub layout, in the dtype of the base model.

    A quantised base is written in plain precision: quantising the sum again would erase most of what
    preference training changed. The end of turn is added to config files that lack it.

    Args:
        asked: the model settings of the run; the fused model gets their chat template.

    Raises:
        DpoError: files do not fit, the adapter belongs to another base, weights are not finite, the output
            exists, or the disk is full.
    """
    output = Path(output)
    if is_there(output):
        raise DpoError("exists already", where=output, hint="choose another folder with --output")
    read_adapter_config(adapter)
    base = find_model(model_path)
    others = _bytes(base, "*.json", "*.jinja", "*.model", "*.txt")
    check_writable(output, need_bytes=_bytes(base, "model*.safetensors") + others)
    fused = fused_model(base, adapter, asked)
    if fused.was_quantised:
        say("the base model is quantised: the fused model is written in plain precision")
    check_writable(output, need_bytes=weight_bytes(fused.model) + others)
    # The folder appears only when it is complete.
    replace_folder(output, lambda beside: _write(beside, base, fused))
    return output


def _bytes(folder: Path, *patterns: str) -> int:
    return sum(file.stat().st_size for file in files_in(folder, *patterns))


def _write(folder: Path, base: Path, fused: FusedModel) -> None:
    from mlx_lm.utils import save

    tokenizer = fused.tokenizer
    save(folder, base, fused.model, tokenizer, fused.config, donate_model=False)  # a model card too
    for code in files_in(folder, "*.py"):  # code of the base: we never run it, and nobody should
        code.unlink()
    end = end_of_turn(tokenizer)
    if list_end(folder, end, mlx_lm_stops(base, tokenizer)):
        token = tokenizer.convert_ids_to_tokens(end)
        say(
            f"the config files of the base model do not list the end of turn {token}: it is added to "
            "config.json and generation_config.json of the fused model, so that mlx_lm stops there"
        )
