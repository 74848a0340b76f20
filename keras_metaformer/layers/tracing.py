"""What torch.compile is spared while it traces a model."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import keras

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Once: some of this is asked for at each call of a layer.
_torch: Any = None
if keras.backend.backend() == "torch":
    import torch

    _torch = torch


def taken_as_given(function: _Function) -> _Function:
    """A function that `torch.compile` calls while it traces, and does not look into."""
    if _torch is None:
        return function
    return _torch.compiler.assume_constant_result(function)


def is_compiling() -> bool:
    """Whether `torch.compile` traces this call."""
    return _torch is not None and _torch.compiler.is_compiling()


def constant(function: _Function) -> _Function:
    """`functools.cache`, which `torch.compile` takes at its word.

    Looking into such a function takes the compiler far longer than calling it. For
    functions of classes and names: of a layer the answer would tie the program to that
    very layer.

    Seen with: torch 2.13.0.
    Gain: of 15 s that it traces ConvFormerS18 on two cores, 4.
    """
    cached: Any = functools.cache(function)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return cached(*arguments)

    given: Any = taken_as_given(call)
    return given


#: Whether a function that is compiled once is being traced.
_reads_directly = False


def compiled_once(function: _Function) -> _Function:
    """A function of which `torch.compile` makes one program for all calls that agree.

    For `may_compile_once` alone. Each call is traced by itself, with all that it reads;
    those whose operations are the same, on maps and weights of the same shapes, share
    the program. (torch would also reuse the first trace, but asks too little: it did
    not see a hook, a changed activation or a shared weight.)

    Arguments of operations are compared as far as both have them, without their names:
    operations called here with one more in one block than in another would be taken
    for equal. They name all that a layer's settings change.

    Seen with: torch 2.13.0.
    Gain: `torch.compile` of ConvFormerS18, on two cores of an Intel Xeon, from 47 to
    36 s, timm's taking 35.

    Args:
        function: takes a layer and a tensor, and returns a tensor. It must not break
            the graph.
    """
    region = _compile_region()
    if region is None:
        return function

    @region
    def traced(layer: Any, inputs: Any) -> tuple[Any, None]:
        global _reads_directly
        _reads_directly = True
        outputs = function(layer, inputs)
        _reads_directly = False
        return outputs, None  # What is no tensor keeps torch from reusing the trace.

    @functools.wraps(function)
    def call(layer: Any, inputs: Any) -> Any:
        outputs, _ = traced(layer, inputs)
        return outputs

    compiled: Any = call
    return compiled


def _compile_region() -> Any:
    """Torch's decorator of repeated regions, or None where it is another than known."""
    if _torch is None:
        return None
    region = getattr(_torch.compiler, "nested_compile_region", None)
    if region and "max_reuse_entries" in inspect.signature(region).parameters:
        return region
    return None


def may_compile_once(device: Any) -> bool:
    """Whether `compiled_once` is for this call: inference on CPUs, compiled.

    Args:
        device: that of the tensors.
    """
    return (
        _torch is not None
        and _torch.compiler.is_dynamo_compiling()
        and not _torch.compiler.is_exporting()
        and not _torch.is_grad_enabled()
        and not _torch.is_autocast_enabled("cpu")
        and device.type == "cpu"
        and not in_function_transform()
        and _compiler_takes_regions()
        and _knows_all_sizes()
        and not in_stateless_scope()
    )


@taken_as_given
def _compiler_takes_regions() -> bool:
    """Whether what is traced is for torch's own compiler, Inductor, as it comes.

    Others need not know regions. Its wrapper in C++ does not, and weights inside them
    are not frozen.
    """
    try:
        from torch._dynamo.eval_frame import innermost_backend
        from torch._dynamo.symbolic_convert import InstructionTranslator
        from torch._inductor import config

        translator: Any = InstructionTranslator.current_tx()
        compiler: Any = innermost_backend(translator.output.compiler_fn)
        compiler = getattr(compiler, "compiler_fn", compiler)
        if compiler.compiler_name != "inductor":
            return False
        options = {
            name: compiler.config.get(name, getattr(config, name))
            for name in ("cpp_wrapper", "freezing")
        }
    except (ImportError, AttributeError):  # Another compiler, or version of torch.
        return False
    return not any(options.values())


@taken_as_given
def _knows_all_sizes() -> bool:
    """Whether all sizes are known while this is traced: no `dynamic=True`, say.

    torch's compiler fails with regions whose maps had a size that was not, also where a
    check has settled it since.
    """
    from torch._guards import TracingContext

    context = TracingContext.try_get()
    sizes = getattr(context and context.fake_mode, "shape_env", None)
    return not getattr(sizes, "var_to_range", True)


@taken_as_given
def in_function_transform() -> bool:
    """Whether torch derives or vectorises this call, by `torch.func`.

    A compiled program is for those transforms that it was traced in: torch sees to it.
    """
    return _torch._C._functorch.peek_interpreter_stack() is not None


def in_stateless_scope() -> bool:
    """Whether weights have other values than their own, by `keras.StatelessScope`.

    The first such scope of a thread leaves a trace, for which `torch.compile` would
    compile anew: a model enters one when it is made.
    """
    with keras.StatelessScope(initialize_variables=False) as scope:
        return scope.original_scope is not None


def value_of(variable: Any) -> Any:
    """`variable.value`, of whose questions `torch.compile` is spared the tracing.

    Keras asks for scopes at each weight. For functions that are compiled once they have
    been asked for before.

    Gain: of 7600 calls that are traced of ConvFormerS18, 2200.
    """
    if _reads_directly and is_compiling():
        return variable._value
    return variable.value
