"""Looks into a model while it runs: what its layers give, and gradients there."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_metaformer.arrays import to_numpy
from keras_metaformer.explain import derivatives
from keras_metaformer.features.extractor import chosen_layers
from keras_metaformer.layers import operations
from keras_metaformer.layers.composite import Run, has_flow
from keras_metaformer.layers.tokens import flatten_tokens, unflatten_tokens
from keras_metaformer.layers.validation import positive_integer
from keras_metaformer.models.nodes import graph_of, is_graph, nodes_of
from keras_metaformer.models.pyramid_model import description_of
from keras_metaformer_lite.description import ImageDescription

#: What is made of a layer's inputs and outputs: `(layer, inputs, outputs) -> tensor`.
Watch = Callable[[keras.layers.Layer, Any, Any], Any]
#: Paths of layers, and what is made of each; None for its outputs.
_Watched = tuple[tuple[str, Watch | None], ...]
#: The name of the model's own output among what was observed.
OUTPUT = "output"
#: So many run in less time than a program for larger ones is compiled in.
_FEW_BATCHES = 16
_SQUASHING = (keras.activations.softmax, keras.activations.sigmoid)


class Derivative(NamedTuple):
    """A score of each image and how it changes with the image or with a map.

    Attributes:
        scores: float32 `(batch,)`.
        values: float32 `(batch, ...)`. The images, or the map.
        gradients: float32, of the values' shape.
        watched: float32 arrays `(batch, ...)` by the path of a layer.
    """

    scores: np.ndarray
    values: np.ndarray
    gradients: np.ndarray
    watched: dict[str, np.ndarray]


class Probe:
    """A model whose layers can be watched, and differentiated by.

    The model runs as at inference, in its own precision, and stays as it is: nothing is
    added to its graph. Layers are named by their path: `"stage_2_block_0"` is one of
    the graph, `"stage_2_block_0/channel_mixing/norm"` a part of it,
    `"backbone/stage_2_block_0"` one of a model that is a layer of this one.

    Its outputs are logits where the model ends in a softmax or a sigmoid, which is left
    out: gradients of what is nearly certain would vanish.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.MetaFormer((1, 1), (8, 8), input_shape=(32, 32, 3), classes=5)
    >>> probe = Probe(model)
    >>> images = np.zeros((2, 32, 32, 3), "float32")
    >>> probe.observe(images, {"stage_1": None})["stage_1"].shape
    (2, 4, 4, 8)

    Args:
        model: functional or sequential model from one image `(batch, height, width,
            channels)`, with or without a classifier. Models may be its layers, and so
            may preprocessing and augmentation, which is at rest here.

    Raises:
        TypeError: if the model is of another kind.
        ValueError: if it is not built, or has more than one input or output.
    """

    def __init__(self, model: keras.Model) -> None:
        if not is_graph(model):
            raise TypeError(
                "Expected a functional model, or a sequential one that is built. "
                f"Received: model={model!r} of type {type(model).__name__}"
            )
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise ValueError(
                "Expected a model of one image and one output. "
                f"Received: {model.name!r} with {len(model.inputs)} inputs and "
                f"{len(model.outputs)} outputs"
            )
        if len(model.inputs[0].shape) != 4:
            raise ValueError(
                "Expected a model of images (batch, height, width, channels). "
                f"Received: {model.name!r} with input_shape={model.input_shape}"
            )
        self.model = model
        self.layers: dict[str, keras.layers.Layer] = {}
        #: The graph's layers that give maps, tokens or vectors, with the shapes.
        self.shapes: dict[str, tuple[int | None, ...]] = {}
        #: The model and those that are layers of it.
        self.models: list[keras.Model] = []
        self._repeated: set[str] = set()
        self._list(model, "")
        self._last = _last_operation(model)
        #: The activation that is left out at the end, or None.
        self.squashing = _squashing_of(self._last)
        self._compiled: dict[Any, Any] = {}
        self._sizes: dict[Any, set[int]] = {}
        self._together: _Watched = ()

    @classmethod
    def of(cls, model: "keras.Model | Probe") -> "Probe":
        """The probe of a model; one is taken as it is, with what it has compiled."""
        return model if isinstance(model, Probe) else cls(model)

    @property
    def description(self) -> ImageDescription | None:
        """What the model knows of its images, or None."""
        return description_of(self.model)

    # Layers ---------------------------------------------------------------------------

    def find(self, where: str | int | keras.layers.Layer) -> str:
        """The path of a layer.

        Args:
            where: its path or the end of it, a pyramid level such as `"P4"`, the index
                of a block, negative from the end, or the layer.

        Raises:
            ValueError: if the model has no such layer, more than one, or calls it more
                than once.
        """
        found = list(self._paths_of(where))
        if len(found) == 1 and found[0] not in self._repeated:
            return found[0]
        if not found:
            why = "there is none"
        elif len(found) > 1:
            why = f"there are {len(found)}, such as {found[0]!r} and {found[-1]!r}"
        else:
            why = "the model calls it more than once"
        places = [path for path in self.layers if path.count("/") == 0]
        name = where.name if isinstance(where, keras.layers.Layer) else where
        raise ValueError(
            f"Expected one layer of {self.model.name!r}, a level or the index of a "
            f"block, but {why}. Its layers are {places}, and `Probe.layers` lists "
            f"their parts. Received: layer={name!r}"
        )

    def of_kind(self, *classes: type) -> dict[str, keras.layers.Layer]:
        """The layers of some classes by their paths, in the order of their calls."""
        return {
            path: layer
            for path, layer in self.layers.items()
            if isinstance(layer, classes)
        }

    def last_map(self) -> str:
        """The path of the last layer of the graph that gives a map.

        Raises:
            ValueError: if none does.
        """
        for path, shape in reversed(self.shapes.items()):
            if len(shape) == 4 and not is_graph(self.layers[path]):
                return path
        raise ValueError(
            "Expected a model with a map (batch, height, width, channels) inside. "
            f"Received: {self.model.name!r}"
        )

    def _paths_of(self, where: Any) -> Iterator[str]:
        if isinstance(where, keras.layers.Layer):
            yield from (path for path, each in self.layers.items() if each is where)
            return
        if where in self.layers:
            yield where
            return
        endings = [path for path in self.layers if path.endswith(f"/{where}")]
        yield from endings
        if endings:
            return
        for model in self.models:
            try:
                chosen = chosen_layers(model, [where])
            except ValueError:
                continue
            yield from self._paths_of(next(iter(chosen.values())))

    def _list(self, model: Any, prefix: str) -> None:
        self.models.append(model)
        for node in nodes_of(model):
            is_layer = isinstance(node.operation, keras.layers.Layer)
            if is_layer and not node.is_input:
                path = f"{prefix}{node.operation.name}"
                if len(node.outputs) == 1:
                    self.shapes[path] = tuple(node.outputs[0].shape)
                self._add(node.operation, path)

    def _add(self, layer: Any, path: str) -> None:
        if path in self.layers:
            self._repeated.add(path)
        self.layers[path] = layer
        if is_graph(layer):
            self._list(layer, f"{path}/")
        elif has_flow(layer):
            layer.flow(_Listing(layer, self, f"{path}/"), None)

    # Running --------------------------------------------------------------------------

    def observe(
        self,
        images: np.ndarray,
        watch: Mapping[Any, Watch | None],
        *,
        batch_size: int = 8,
    ) -> dict[str, np.ndarray]:
        """What layers give for images.

        Args:
            images: float array `(batch, height, width, channels)`, as the model takes
                them.
            watch: for each layer, as `find` takes it, what is made of its inputs and
                outputs: a function of the layer and both, of tensors `(batch, ...)`;
                None for the outputs. It is traced on JAX: give the same function again
                to have it compiled once.
            batch_size: int. So many images at once.

        Returns:
            float32 arrays `(batch, ...)` by the paths of the layers; the model's own
            output, logits where it is a classifier, is `"output"`.

        Raises:
            ValueError: if there is no such layer, or the images do not fit the model.
        """
        key, program = self._program(self._found(watch))

        def compute(tensors: Any) -> Any:
            outputs, found = program(tensors[0])
            return {OUTPUT: outputs, **found}

        return self._in_batches(key, compute, (images,), batch_size)

    @contextlib.contextmanager
    def watching_together(self, *watches: Mapping[Any, Watch | None]) -> Iterator[None]:
        """Say what `observe` and `scores` will watch, inside a `with` block.

        On JAX they then share one program that gives it all, where each set of layers
        would have one of its own, compiled for longer than it runs.

        Args:
            *watches: as of `observe`.

        Raises:
            ValueError: if there is no such layer.
        """
        before = self._together
        pairs = (pair for watch in watches for pair in self._found(watch))
        self._together = tuple(dict.fromkeys((*before, *pairs)))
        try:
            yield
        finally:
            self._together = before

    def _found(self, watch: Mapping[Any, Watch | None] | None) -> _Watched:
        functions = {self.find(at): function for at, function in (watch or {}).items()}
        return tuple(sorted(functions.items(), key=lambda pair: pair[0]))

    def _program(self, watched: _Watched) -> tuple[Any, Callable[[Any], Any]]:
        """A function from images to the output and what is watched, and its key."""
        on_jax = keras.backend.backend() == "jax"
        is_shared = on_jax and set(watched) <= set(self._together)
        everything = self._together if is_shared else watched

        def compute(tensors: Any) -> Any:
            outputs, found, _ = self._run(tensors[0], everything, None, None)
            return outputs, found

        key = ("observe", *everything)
        run = self._cached(key, lambda: derivatives.forward(self.model, compute))

        def program(images: Any) -> tuple[Any, dict[str, Any]]:
            outputs, tensors = run([images])
            found = dict(zip(everything, tensors, strict=True))
            return outputs, {path: found[path, function] for path, function in watched}

        return key, program

    def differentiate(
        self,
        images: np.ndarray,
        score: Callable[..., Any],
        *,
        at: Any = None,
        watch: Mapping[Any, Watch | None] | None = None,
        data: Sequence[np.ndarray] = (),
        batch_size: int = 8,
    ) -> Derivative:
        """How a score of each image changes with the image, or with a layer's output.

        Args:
            images: as of `observe`.
            score: function of the model's output (float32), of what is watched, a dict
                by path, and of `data`, that gives a tensor `(batch,)`. Each score must
                depend on its own image alone.
            at: None for the image, or a layer as `find` takes it.
            watch: as of `observe`, for the score.
            data: further arrays `(batch, ...)` for the score.
            batch_size: int. So many images at once.

        Raises:
            ValueError: if there is no such layer, or the images do not fit the model.
        """
        watched = self._found(watch)
        paths = [path for path, _ in watched]
        place = None if at is None else self.find(at)

        def compute(tensors: Any, shift: Callable[[Any], Any]) -> Any:
            batch, *further = tensors
            outputs, tensors, value = self._run(batch, watched, place, shift)
            found = dict(zip(paths, tensors, strict=True))
            scores = ops.cast(score(outputs, found, *further), "float32")
            return {"scores": scores, "values": value, **_prefixed(found)}

        key = ("differentiate", score, place, *watched)
        run = self._cached(key, lambda: derivatives.backward(self.model, compute))
        found = self._in_batches(key, run, (images, *data), batch_size)
        return Derivative(
            found.pop("scores"),
            found.pop("values"),
            found.pop("gradients"),
            {name.removeprefix("watched "): each for name, each in found.items()},
        )

    def scores(
        self,
        images: np.ndarray,
        score: Callable[..., Any],
        *,
        watch: Mapping[Any, Watch | None] | None = None,
        data: Sequence[np.ndarray] = (),
        batch_size: int = 8,
    ) -> np.ndarray:
        """The score of each image, float32 `(batch,)`; arguments of `differentiate`."""
        key, program = self._program(self._found(watch))

        def compute(tensors: Any) -> Any:
            batch, *further = tensors
            outputs, found = program(batch)
            scores = score(outputs, found, *further)
            return {"scores": ops.cast(scores, "float32")}

        return self._in_batches(key, compute, (images, *data), batch_size)["scores"]

    def _cached(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._compiled:
            self._compiled[key] = make()
        return self._compiled[key]

    def _in_batches(
        self, key: Any, run: Any, arrays: Sequence[np.ndarray], batch_size: int
    ) -> dict[str, np.ndarray]:
        positive_integer("batch_size", batch_size)
        images = np.asarray(arrays[0])
        self._check(images)
        size, found = min(batch_size, len(images)), []
        if keras.backend.backend() == "jax":
            size = self._compiled_size(key, size, len(images))
        for start in range(0, len(images), size):
            chunks = [np.asarray(array)[start : start + size] for array in arrays]
            count = len(chunks[0])
            full = [
                np.concatenate([chunk, np.repeat(chunk[-1:], size - count, axis=0)])
                for chunk in chunks
            ]
            results = run([ops.convert_to_tensor(array) for array in full])
            found.append(
                {
                    name: np.asarray(to_numpy(tensor), "float32")[:count]
                    for name, tensor in results.items()
                }
            )
        return {
            name: np.concatenate([each[name] for each in found]) for name in found[0]
        }

    def _compiled_size(self, key: Any, wanted: int, images: int) -> int:
        """The batch size of a program: another is compiled anew, where it pays."""
        sizes = self._sizes.setdefault(key, set())
        if any(size >= wanted for size in sizes):
            return min(size for size in sizes if size >= wanted)
        if sizes and images < _FEW_BATCHES * max(sizes):
            return max(sizes)
        sizes.add(wanted)
        return wanted

    def _check(self, images: np.ndarray) -> None:
        expected = self.model.inputs[0].shape
        fits = (
            images.ndim == 4
            and len(images) > 0
            and np.issubdtype(images.dtype, np.number)
            and all(
                own in (None, given)
                for own, given in zip(expected[1:], images.shape[1:], strict=True)
            )
        )
        if not fits:
            raise ValueError(
                f"Expected images {tuple(expected)} of numbers, at least one. "
                f"Received: images of shape {images.shape} and type {images.dtype}"
            )

    def _run(
        self,
        images: Any,
        watched: _Watched,
        place: str | None,
        shift: Callable[[Any], Any] | None,
    ) -> tuple[Any, list[Any], Any]:
        """The output, what was watched, in order, and what is differentiated by."""
        walk = _Walk(self._last, watched, place, shift)
        if place is None and shift is not None:
            images = walk.value = shift(ops.cast(images, "float32"))
        outputs = walk.through(self.model, images, "")
        found = [walk.found[pair] for pair in watched]
        return ops.cast(outputs, "float32"), found, walk.value


def _prefixed(watched: dict[str, Any]) -> dict[str, Any]:
    return {f"watched {path}": tensor for path, tensor in watched.items()}


class _Walk:
    """One way through a model, of tensors."""

    def __init__(self, last: Any, watched: _Watched, place, shift):
        self.last = last
        self.functions: dict[str, list[Watch | None]] = {}
        for path, function in watched:
            self.functions.setdefault(path, []).append(function)
        self.place = place
        self.shift = shift
        self.value: Any = None
        self.found: dict[Any, Any] = {}

    def through(self, model: Any, images: Any, prefix: str) -> Any:
        images = ops.cast(images, model.inputs[0].dtype)

        def operation_fn(operation: Any) -> Callable[..., Any]:
            return lambda *args, **kwargs: self.call(operation, prefix, args, kwargs)

        outputs = graph_of(model)._run_through_graph(
            [images], operation_fn=operation_fn
        )
        flat = keras.tree.flatten(outputs)
        return flat[0] if len(flat) == 1 else outputs

    def call(self, layer: Any, prefix: str, args: Any, kwargs: Any) -> Any:
        path = f"{prefix}{layer.name}"
        if is_graph(layer):
            outputs = self.through(layer, args[0], f"{path}/")
        elif has_flow(layer):
            inputs = keras.tree.map_structure(
                lambda tensor: ops.cast(tensor, layer.compute_dtype), args[0]
            )
            outputs = layer.flow(_Walking(layer, self, f"{path}/"), inputs)
        elif layer is self.last:
            outputs = _without_squashing(layer, args, kwargs)
        else:
            outputs = _at_inference(layer, args, kwargs)
        if path == self.place:
            outputs = self.value = self.shift(outputs)
        inputs = args[0] if len(args) == 1 else args
        for function in self.functions.get(path, ()):
            seen = outputs if function is None else function(layer, inputs, outputs)
            self.found[path, function] = ops.cast(seen, "float32")
        return outputs


class _Walking(Run):
    """The flow of tensors in which no map is overwritten, so that all can be kept."""

    def __init__(self, outer: Any, walk: _Walk, prefix: str):
        super().__init__(outer)
        self.walk = walk
        self.prefix = prefix

    def step(self, layer, x):
        return self.walk.call(layer, self.prefix, (x,), {})

    def add(self, x, branch, scale=None):
        factor = None if scale is None else ops.cast(scale.scale, x.dtype)
        return operations.residual_sum(x, factor, branch, overwrite=False)

    def over_tokens(self, x, *layers):
        return unflatten_tokens(self(flatten_tokens(x), *layers), x.shape[1:-1])


class _Listing(Run):
    """The flow of nothing, in which parts are listed."""

    def __init__(self, outer: Any, probe: Probe, prefix: str):
        super().__init__(outer)
        self.probe, self.prefix = probe, prefix

    def step(self, layer, x):
        self.probe._add(layer, f"{self.prefix}{layer.name}")
        return x

    def add(self, x, branch, scale=None):
        return x

    def over_tokens(self, x, *layers):
        return self(x, *layers)


def _last_operation(model: Any) -> Any:
    """What gives the model's output, in whichever nested model it is."""
    last = model.outputs[0]._keras_history.operation
    return _last_operation(last) if is_graph(last) else last


def _squashing_of(layer: Any) -> Any:
    """The softmax or sigmoid that the model's last layer ends in, or None."""
    if isinstance(layer, keras.layers.Softmax):
        return keras.activations.softmax
    activation = getattr(layer, "activation", None)
    return activation if activation in _SQUASHING else None


def _without_squashing(layer: Any, args: Any, kwargs: Any) -> Any:
    activation = _squashing_of(layer)
    if activation is None:
        return _at_inference(layer, args, kwargs)
    if isinstance(layer, (keras.layers.Softmax, keras.layers.Activation)):
        return args[0]
    layer.activation = keras.activations.linear
    try:
        return _at_inference(layer, args, kwargs)
    finally:
        layer.activation = activation


def _at_inference(layer: Any, args: Any, kwargs: Any) -> Any:
    if isinstance(layer, keras.layers.Layer) and _takes_training(layer):
        # Augmentation layers take themselves to be in training if nothing is said.
        kwargs = {**kwargs, "training": False}
    return layer(*args, **kwargs)


def _takes_training(layer: keras.layers.Layer) -> bool:
    return "training" in inspect.signature(layer.call).parameters
