"""Names of mlx, mlx_lm and transformers that are private or that we replace: checked before use.

Their other names are imported where they are used. `NAMES` is the whole list; a test checks that no other
file uses more. If a name is gone or has another shape, `UpstreamError` says which, and what to install.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, lru_cache
from importlib import import_module
from importlib.metadata import version
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple

from .errors import DpoError

TESTED = {"mlx": ">=0.32.2,<0.33", "mlx-lm": ">=0.32.2,<0.33", "transformers": ">=5.7"}
"""The versions that pyproject.toml asks for."""


class UpstreamError(DpoError):
    """Another package has changed since this one was written."""


class Shape(NamedTuple):
    """What must hold for one of their functions.

    `takes`: its parameters, in this order; all others are optional. `alone`: there are no others.
    `names`: names that its code uses.
    """

    takes: Sequence[str] = ()
    alone: bool = False
    names: Sequence[str] = ()


_ATTENTION = ("queries", "keys", "values", "cache", "scale", "mask", "sinks")
_SCAN = (
    *("x", "A_log", "B", "C", "D", "dt", "dt_bias"),
    *("state", "time_step_limit", "mask", "lengths", "step"),
)
_BATCH = ("model", "stop_tokens", "completion_batch_size", "prefill_batch_size")

NAMES = {
    "mlx_lm.utils:_get_classes": Shape(("config",)),
    "mlx_lm.utils:_download": Shape(("path_or_hf_repo", "allow_patterns")),
    "mlx_lm.utils:_tokenizer_defaults": Shape(("model_path",)),
    "mlx_lm.tokenizer_utils:TokenizerWrapper.__init__": Shape(names=("_chat_template",)),
    "mlx_lm.generate:BatchGenerator.__init__": Shape(_BATCH),
    "mlx_lm.generate:BatchGenerator.insert_segments": Shape(("segments", "max_tokens", "caches", "samplers")),
    "mlx_lm.generate:BatchGenerator.next": Shape(),
    "mlx_lm.generate:BatchGenerator.extract_cache": Shape(("uids",), alone=True),
    "mlx_lm.generate:BatchGenerator.stats": Shape(),
    "mlx_lm.generate:BatchGenerator.close": Shape(),
    "mlx_lm.models.cache:ConcatenateKVCache.update_and_fetch": Shape(
        ("keys", "values"), names=("keys", "values", "offset", "keys_and_values")
    ),
    "mlx_lm.models.cache:ArraysCache.__getitem__": Shape(names=("cache",)),
    "mlx_lm.models.cache:CacheList.__getitem__": Shape(names=("caches",)),
    "mlx_lm.models.base:scaled_dot_product_attention": Shape(_ATTENTION, alone=True),
    "mlx_lm.models.llama:Attention.__call__": Shape(names=("scaled_dot_product_attention",)),
    "mlx_lm.models.ssm:ssm_attn": Shape(_SCAN, alone=True, names=("compute_dt",)),
    "mlx_lm.models.ssm:ssm_update": Shape(names=("ssm_attn",)),
    "mlx_lm.models.ssm:compute_dt": Shape(("dt", "dt_bias", "time_step_limit")),
    "mlx_lm.models.activations:swiglu": Shape(("gate", "x"), alone=True),
    "mlx_lm.models.llama:MLP.__call__": Shape(names=("swiglu",)),
    "mlx_lm.tuner.lora:LoRALinear.__call__": Shape(
        ("self", "x"), alone=True, names=("linear", "dropout", "lora_a", "lora_b", "scale")
    ),
    "mlx.nn:gelu_approx": Shape(("x",), alone=True),
    "mlx_lm.models.gemma3_text:MLP.__call__": Shape(names=("nn", "gelu_approx")),
    "mlx.nn:Module.__init__": Shape(names=("_no_grad",)),
    "mlx.nn:QuantizedLinear.__call__": Shape(("self", "x"), alone=True),
    "mlx.nn:QuantizedEmbedding.as_linear": Shape(("self", "x"), alone=True),
    "transformers.utils.chat_template_utils:datetime": Shape(names=("now",)),
    "transformers.utils.chat_template_utils:ImmutableSandboxedEnvironment": Shape(names=("call_binop",)),
    "transformers.utils.chat_template_utils:_cached_compile_jinja_template": Shape(
        names=("ImmutableSandboxedEnvironment",)
    ),
}
"""A changed attribute name shows in the code that sets or reads the attribute."""

_PLACES = {
    "__call__": "mlx_lm.tuner.lora:LoRALinear.__call__",
    "scaled_dot_product_attention": "mlx_lm.models.base:scaled_dot_product_attention",
    "ssm_attn": "mlx_lm.models.ssm:ssm_attn",
    "swiglu": "mlx_lm.models.activations:swiglu",
}
_CALLERS = (
    "mlx_lm.models.llama:Attention.__call__",
    "mlx_lm.models.llama:MLP.__call__",
    "mlx_lm.models.ssm:ssm_update",
)
"""Replaced functions reach the models only if these callers still use the functions' names."""


def check_all() -> None:
    """Check every name, and what mlx records of a trace.

    Raises:
        UpstreamError: the first name that has changed.
    """
    for name in NAMES:
        checked(name)
    _replaceable()
    _check_records()


@cache
def checked(name: str) -> Any:
    """The object that `name`, one of NAMES, refers to.

    Raises:
        UpstreamError: the name is gone, or has another shape.
    """
    module, path = name.split(":")
    shape = NAMES[name]
    try:
        found = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        found = None
    if not callable(found):
        raise upstream_error(module, f"has no {name}")
    code = getattr(found, "__code__", None)
    named = dir(found) if code is None else code.co_names
    if missing := [n for n in shape.names if n not in named]:
        raise upstream_error(module, f"has a changed {name}, without {missing[0]}")
    if shape.takes and not _takes(found, shape):
        raise upstream_error(module, f"has a changed {name}{signature(found)}")
    return found


def _takes(function: Callable[..., Any], shape: Shape) -> bool:
    parameters = signature(function).parameters
    others = [p for name, p in parameters.items() if name not in shape.takes and name != "self"]
    if [name for name in parameters if name in shape.takes] != list(shape.takes) or (shape.alone and others):
        return False
    several = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return all(p.default is not Parameter.empty or p.kind in several for p in others)


def upstream_error(module: str, what: str) -> UpstreamError:
    """The error for one of their modules that has changed."""
    package = module.partition(".")[0].replace("_", "-")
    wanted = TESTED[package]
    return UpstreamError(
        f"{package} {version(package)} {what}",
        hint=f"mlx_dpo is tested with {package}{wanted}: pip install '{package}{wanted}'; "
        "scripts/check_upstream.sh shows what has changed",
    )


def versions() -> str:
    """The installed and the tested versions, and the script that shows what has changed."""
    installed = " and ".join(f"{name} {version(name)}" for name in ("mlx", "mlx-lm"))
    tested = " and ".join(f"{name}{TESTED[name]}" for name in ("mlx", "mlx-lm"))
    return f"Installed: {installed}; tested: {tested}; scripts/check_upstream.sh shows what has changed"


# mlx_lm


def model_classes(config: Mapping[str, Any]) -> tuple[type, type]:
    """The model's class and that of its arguments.

    Raises:
        KeyError, ValueError, AttributeError, TypeError: mlx_lm does not know the architecture.
    """
    return checked("mlx_lm.utils:_get_classes")(config)


def downloaded(name: str, patterns: Sequence[str]) -> Path:
    """The folder of a model on the Hub, with files of these patterns; raises the Hub client's errors."""
    return checked("mlx_lm.utils:_download")(name, allow_patterns=list(patterns))


def tokenizer_defaults(folder: Path) -> dict[str, Any]:
    """Tokenizer settings that mlx_lm's code requires for the architecture in a folder."""
    return checked("mlx_lm.utils:_tokenizer_defaults")(folder) or {}


def has_renderer(tokenizer: Any) -> bool:
    """Whether mlx_lm renders conversations with its own code and ignores the chat template."""
    checked("mlx_lm.tokenizer_utils:TokenizerWrapper.__init__")
    return tokenizer._chat_template is not None


def remove_renderer(tokenizer: Any) -> None:
    """Make the tokenizer use the chat template from now on."""
    checked("mlx_lm.tokenizer_utils:TokenizerWrapper.__init__")
    tokenizer._chat_template = None


def batch_generator(model: Any, **settings: Any) -> Any:
    """mlx_lm's continuous batching."""
    for name in ("__init__", "insert_segments", "next", "extract_cache", "stats", "close"):
        checked(f"mlx_lm.generate:BatchGenerator.{name}")
    return import_module("mlx_lm.generate").BatchGenerator(model, **settings)


def check_caches() -> None:
    """Check what `forward.prompt_cache` extends."""
    for name in NAMES:
        if name.startswith("mlx_lm.models.cache:"):
            checked(name)


@contextmanager
def replaced_in_models(ours: tuple[tuple[str, Callable[..., Any]], ...]) -> Iterator[None]:
    """Within it, mlx_lm's models call `ours`, (name, function), instead of mlx_lm's functions of these names.

    `__call__` stands for the call of mlx_lm's LoRA layer.
    """
    places = _places(ours, len(sys.modules))
    for place, name, our, _ in places:
        setattr(place, name, our)
    try:
        yield
    finally:
        for place, name, _, their in places:
            setattr(place, name, their)


def replaced_gelu(ours: Callable[[Any], Any]) -> AbstractContextManager[None]:
    """Within it, mlx_lm's Gemma 3 computes its activation function with `ours`."""
    for name in ("mlx_lm.models.gemma3_text:MLP.__call__", "mlx.nn:gelu_approx"):
        checked(name)
    return _replaced(import_module("mlx.nn"), "gelu_approx", ours)


@contextmanager
def _replaced(place: Any, name: str, ours: Any) -> Iterator[None]:
    theirs = getattr(place, name)
    setattr(place, name, ours)
    try:
        yield
    finally:
        setattr(place, name, theirs)


def replaceable(name: str) -> Any:
    """mlx_lm's own function of this name, even while it is replaced."""
    return _replaceable()[name]


def compute_dt(dt: Any, dt_bias: Any, time_step_limit: tuple[float, float]) -> Any:
    """mlx_lm's step sizes of a Mamba-2 scan: softplus(dt + dt_bias) within the limits, float32."""
    return checked("mlx_lm.models.ssm:compute_dt")(dt, dt_bias, time_step_limit)


@lru_cache(maxsize=1)
def _places(ours: tuple[tuple[str, Any], ...], loaded: int) -> list[tuple[Any, str, Any, Any]]:
    """(place, name, ours, theirs): in the modules of loaded models, and in mlx_lm's LoRA layer."""
    theirs = _replaceable()
    lora = import_module("mlx_lm.tuner.lora").LoRALinear
    modules = [module for key, module in list(sys.modules.items()) if key.startswith("mlx_lm.models.")]
    return [
        (place, name, our, theirs[name])
        for place in (*modules, lora)
        for name, our in ours
        if getattr(place, name, None) in (our, theirs[name])
    ]


@cache
def _replaceable() -> dict[str, Any]:
    theirs = {name: checked(place) for name, place in _PLACES.items()}
    for caller in _CALLERS:
        checked(caller)
        module = caller.partition(":")[0]
        for name in NAMES[caller].names:
            if getattr(import_module(module), name, None) is not theirs[name]:
                raise upstream_error(module, f"has a changed {name} in {caller}")
    return theirs


# mlx


def complete_module(module: Any) -> None:
    """Do what `nn.Module.__init__` does, for a module whose class does not call it."""
    begin = checked("mlx.nn:Module.__init__")
    if not hasattr(module, "_no_grad"):
        begin(module)


def replace_quantised_products(linear: Callable[..., Any], as_linear: Callable[..., Any]) -> None:
    """From now on all quantised layers multiply by `linear`, and quantised embeddings by `as_linear`."""
    for name in ("QuantizedLinear.__call__", "QuantizedEmbedding.as_linear"):
        checked(f"mlx.nn:{name}")
    nn = import_module("mlx.nn")
    nn.QuantizedLinear.__call__ = linear
    nn.QuantizedEmbedding.as_linear = as_linear


def recorded_trace(fun: Callable[..., Any], given: Sequence[Any]) -> list[dict[str, Any]]:
    """mlx's own records of the operations in `fun(*given)`, which is traced, not computed."""
    _check_records()
    return _recorded(fun, given)


def _recorded(fun: Callable[..., Any], given: Sequence[Any]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    import_module("mlx.core").export_function(records.append, fun, *given)
    return records


@cache
def _check_records() -> None:
    """Check that a product and a sum are recorded as `planning.graph_reader` expects."""
    mx = import_module("mlx.core")
    wanted = {
        "inputs": {"inputs"},
        "outputs": {"outputs"},
        "constants": {"constants"},
        "primitive": {"name", "arguments", "inputs", "outputs"},
    }
    try:
        records = _recorded(lambda a: [(a * mx.array(3.0)).sum()], [mx.zeros((2, 3))])
        found = {kind: next(r for r in records if r["type"] == kind) for kind in wanted}
        operations = [r["name"] for r in records if r["type"] == "primitive"]
        value = found["constants"]["constants"][0][1].item()
        shape, dtype = found["inputs"]["inputs"][0][1:]
        known = all(keys <= found[kind].keys() for kind, keys in wanted.items())
        known = known and {"Broadcast", "Multiply", "Reduce"} <= {*operations}
        known = known and (tuple(shape), dtype, value) == ((2, 3), mx.float32, 3.0)
    except Exception:  # the records may have any form now
        known = False
    if not known:
        raise upstream_error("mlx", "has changed records in mlx.core:export_function")


# transformers


def template_clock(clock: Any) -> AbstractContextManager[None]:
    """Within it, chat templates that print the time look at this clock, which has `now()`."""
    checked("transformers.utils.chat_template_utils:datetime")
    module = import_module("transformers.utils.chat_template_utils")  # slow, and noisy without torch
    return _replaced(module, "datetime", clock)


def template_sandbox(environment: type) -> None:
    """Chat templates are compiled for this environment from now on."""
    for name in ("ImmutableSandboxedEnvironment", "_cached_compile_jinja_template"):
        checked(f"transformers.utils.chat_template_utils:{name}")
    import_module("transformers.utils.chat_template_utils").ImmutableSandboxedEnvironment = environment
