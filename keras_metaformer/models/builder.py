"""From a dataclass of arguments to a function with its signature and docstring."""

import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, ParamSpec

import keras

from keras_metaformer.models.arguments import ModelArguments
from keras_metaformer.models.keywords import bind
from keras_metaformer.models.pyramid_model import PyramidModel
from keras_metaformer_lite.images import EvaluationTransform

P = ParamSpec("P")


@dataclasses.dataclass(frozen=True)
class Builder(Generic[P]):
    """What makes the models of a family.

    Attributes:
        build: makes the graph, with fresh weights, of its arguments and of the images
            that the model is for: their resolution counts where no shape is given,
            their mean and standard deviation where the model normalises.
        arguments: the dataclass that `build` takes.
        constructor_arguments: the dataclass whose fields are the arguments of a named
            model's constructor, in their order.
    """

    build: Callable[[Any, EvaluationTransform], PyramidModel]
    arguments: type[ModelArguments]
    constructor_arguments: Callable[P, Any]


def builder_function(
    arguments_class: Callable[P, Any],
) -> Callable[[Callable[[Any], PyramidModel]], Callable[P, PyramidModel]]:
    """A decorator: a function of a dataclass becomes one of the fields of that class.

    To editors and type checkers the arguments are those of the class when it is called;
    the signature and the docstring's `Args` section are made of it, too. Of what all
    builders take the function sees to all but `weights` and `dtype`.

    Args:
        arguments_class: a dataclass that derives from `ModelArguments`.
    """

    def decorate(function: Callable[[Any], PyramidModel]) -> Callable[P, PyramidModel]:
        signature = signature_of(arguments_class)

        @functools.wraps(function)
        def build(*args: Any, **kwargs: Any) -> PyramidModel:
            # The weights sit above this floor: hence the import here.
            from keras_metaformer.weights.loading import Pretrained

            given = bind(build.__name__, signature, args, kwargs)
            arguments: Any = arguments_class(**given)  # type: ignore[call-arg]
            refuse_idle(arguments, given, signature)

            def make() -> PyramidModel:
                with dtype_policy(arguments.dtype):
                    return function(arguments)

            path = None if arguments.weights is None else Path(arguments.weights)
            return Pretrained(path=path).build(make, arguments.token_interpolation)

        describe(build, signature, arguments_class, inspect.getdoc(function) or "")
        return build

    return decorate


def refuse_idle(
    arguments: ModelArguments, given: Mapping[str, Any], signature: inspect.Signature
) -> None:
    """Refuse arguments that were asked for and act on nothing.

    Args:
        arguments: of the model.
        given: those that the caller gave, by name.
        signature: of the function that was called. What is given as it is by default
            is not asked for.

    Raises:
        ValueError: for the first one that acts on nothing, with the reason.
    """
    for name, value in given.items():
        default = signature.parameters[name].default
        if _same(value, default):
            continue
        reason = arguments.why_idle(name, value, default)
        if reason:
            raise ValueError(
                f"`{name}` would change nothing: {reason}. Received: {name}={value!r}"
            )


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, (list, tuple)) and isinstance(default, (list, tuple)):
        return len(value) == len(default) and all(map(_same, value, default))
    return value is default or (type(value) is type(default) and value == default)


def signature_of(arguments_class: Callable, **defaults: Any) -> inspect.Signature:
    """The signature of a function with the fields of a dataclass as its arguments.

    Args:
        arguments_class: the dataclass.
        **defaults: of fields that have others here.
    """
    parameters = inspect.signature(arguments_class).parameters.values()
    return inspect.Signature(
        [
            parameter.replace(default=defaults.get(parameter.name, parameter.default))
            for parameter in parameters
        ],
        return_annotation=PyramidModel,
    )


def describe(
    function: Any, signature: inspect.Signature, arguments_class: Any, text: str
) -> None:
    """Give a function a signature, and a docstring with an `Args` section.

    Args:
        function: that takes what the signature says.
        signature: as `signature_of` makes it.
        arguments_class: dataclass whose docstrings, and those of its bases, describe
            the arguments.
        text: the docstring; the section is put before its `Returns`.
    """
    texts = _attributes(arguments_class)
    section = "".join(
        f"{name}: {texts[name]}\n" for name in signature.parameters if name in texts
    )
    section = "Args:\n" + textwrap.indent(section, "    ")
    function.__signature__ = signature
    function.__doc__ = text.replace("\nReturns:", f"\n{section}\nReturns:", 1)


def _attributes(documented: type) -> dict[str, str]:
    """The texts of a class' `Attributes` section and of those of its bases, by name."""
    texts: dict[str, str] = {}
    for base in reversed(documented.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        section = re.search(r"^Attributes:\n((?:    .*\n?|\n)*)", text, re.MULTILINE)
        if section:
            found = re.findall(
                r"^    (\w+): (.*\n?(?:        .*\n?)*)", section[1], re.MULTILINE
            )
            texts.update(
                {name: entry.rstrip().replace("\n    ", "\n") for name, entry in found}
            )
    return texts


@contextmanager
def dtype_policy(dtype: Any) -> Iterator[None]:
    """Give the layers that are made inside a `with` block a dtype policy.

    Keras holds its policy for each thread apart, so that others see nothing of it.

    Args:
        dtype: name such as `"mixed_bfloat16"`, a `keras.DTypePolicy`, or None for what
            is set already.

    Raises:
        ValueError: if it is neither.
    """
    if dtype is None:
        yield
        return
    try:
        policy = keras.dtype_policies.get(dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`dtype` must be the name of a dtype or of a policy, such as 'float16' or "
            f"'mixed_bfloat16', or a `keras.DTypePolicy`. Received: dtype={dtype!r}"
        ) from error
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
