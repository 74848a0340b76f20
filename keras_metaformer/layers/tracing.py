"""What torch.compile is spared while it traces a model."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import keras

_Function = TypeVar("_Function", bound=Callable[..., Any])
_torch: Any = None
if keras.backend.backend() == "torch":
    import torch as _torch


def constant(function: _Function) -> _Function:
    """`functools.cache`, which `torch.compile` takes at its word.

    The compiler calls the function while it traces, and does not look into it, which
    takes far longer. For functions of classes and names: of a layer the answer would
    tie the program to that very layer.

    Seen with: torch 2.13.0.
    Gain: of 15 s that it traces ConvFormerS18 on two cores, 4.
    """
    cached: Any = functools.cache(function)
    if _torch is None:
        return cached

    def call(*arguments: Any) -> Any:
        return cached(*arguments)

    return _torch.compiler.assume_constant_result(functools.wraps(function)(call))


def compiled_once(function: _Function) -> _Function:
    """A function that `torch.compile` compiles once for all calls of one kind.

    Blocks of equal shapes are one program then, called with other weights. The function
    must reach all layers through one argument: torch finds the weights of a further
    call by their way from the arguments, and through another (the model, say) it would
    find those of the first.

    Seen with: torch 2.13.0. Older ones, which trace each call anew, are left alone.
    Gain: `torch.compile` of ConvFormerS18 on two cores from 59 to 42 s, where timm's
    takes 44.
    """
    region = getattr(getattr(_torch, "compiler", None), "nested_compile_region", None)
    if region is None:
        return function
    limit = "max_reuse_entries"  # of different programs: reached, it is an error
    if limit not in inspect.signature(region).parameters:
        return function
    return region(function, **{limit: 10_000})


def is_compiling() -> bool:
    """Whether `torch.compile`, and not an exporter, is tracing."""
    if _torch is None:
        return False
    compiler = _torch.compiler
    return compiler.is_dynamo_compiling() and not compiler.is_exporting()
