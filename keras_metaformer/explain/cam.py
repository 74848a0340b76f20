"""Class activation maps: where in the image is what speaks for an answer?"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_metaformer.blocks import MetaFormerBlock, ResidualBranch
from keras_metaformer.explain.heat_maps import HeatMaps, resized
from keras_metaformer.explain.images import pixels, prepared
from keras_metaformer.explain.probe import Probe
from keras_metaformer.explain.targets import Resolved, TargetLike, resolve
from keras_metaformer.layers.validation import positive_integer
from keras_metaformer.models.pyramid_model import StageOutput


class CAM:
    """Class activation maps by one of five methods.

    Each weights the channels of a layer's map `A` by what they have to do with the
    score `y` of a target, and sums them up; what speaks against it is cut off. `G` is
    the gradient of `y` by `A`.

    - `"grad_cam"`: the mean of `G` over the positions weights the channels.
    - `"grad_cam_plus_plus"`: the positive gradients do, weighted so that each
      occurrence counts, however large.
    - `"layer_cam"`: `max(G, 0) * A`, position by position.
    - `"score_cam"`: the score of the image of which nothing but a channel's places is
      left. Without gradients; one run of the model for each channel.
    - `"eigen_cam"`: the first principal component of `A`, of no class: what stands out.
      Its sign is that by which the fewer places are the bright ones.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.MetaFormer((1, 1), (8, 8), input_shape=(32, 32, 3), classes=5)
    >>> cam = CAM(model, "layer_cam")
    >>> cam(np.zeros((2, 32, 32, 3), "float32")).maps.shape
    (2, 32, 32)

    Args:
        model: a model of images, as `Probe` takes it, or its `Probe`.
        method: one of the above.
        layer: whose map, as `Probe.find` takes it; None for `default_layer`.
        channels: int. Of `"score_cam"`, so many channels that vary most over the image;
            None for all.
        batch_size: int. Images at once.

    Raises:
        ValueError: if there is no such method or layer, or it gives no map.

    Reference:
        - Grad-CAM, https://arxiv.org/abs/1610.02391
        - Grad-CAM++, https://arxiv.org/abs/1710.11063
        - LayerCAM, https://doi.org/10.1109/TIP.2021.3089943
        - Score-CAM, https://arxiv.org/abs/1910.01279
        - Eigen-CAM, https://arxiv.org/abs/2008.00299
    """

    def __init__(
        self,
        model: keras.Model | Probe,
        method: str = "grad_cam",
        layer: Any = None,
        *,
        channels: int | None = None,
        batch_size: int = 8,
    ) -> None:
        if method not in METHODS:
            raise ValueError(
                f"`method` must be one of {', '.join(METHODS)}. "
                f"Received: method={method!r}"
            )
        if channels is not None:
            positive_integer("channels", channels)
        positive_integer("batch_size", batch_size)
        self.probe = Probe.of(model)
        self.method = method
        self.layer = (
            default_layer(self.probe) if layer is None else self.probe.find(layer)
        )
        self.channels = channels
        self.batch_size = batch_size

    def __call__(
        self, images: Any, target: TargetLike = None, *, transform: Any = None
    ) -> HeatMaps:
        """The maps of images.

        Args:
            images: float array `(batch, height, width, channels)`, as the model takes
                it; or paths, Pillow images and uint8 arrays of any size.
            target: what is explained: None for the class that the model answers; a
                class' index or name, or one for each image; `Similarity`; `Region`; or
                a function of the logits.
            transform: callable that prepares an image, where the model does not know.

        Raises:
            ValueError: if there is no such target, or the images do not fit the model.
        """
        batch = prepared(self.probe, images, transform)
        resolved = resolve(self.probe, batch, target, self.batch_size)
        found = METHODS[self.method](self, batch, resolved)
        coarse = np.maximum(found, 0).astype("float32")
        largest = coarse.max(axis=(1, 2), keepdims=True)
        scaled = coarse / np.where(largest > 0, largest, 1)
        return HeatMaps(
            images=pixels(batch, self.probe.description),
            maps=resized(scaled, batch.shape[1:3]),
            coarse=coarse,
            method=self.method,
            layer=self.layer,
            labels=tuple(resolved.labels),
        )

    def activations(self, batch: np.ndarray) -> np.ndarray:
        """What the layer gives, `(batch, height, width, channels)`."""
        watch: dict[Any, Any] = {self.layer: None}
        found = self.probe.observe(batch, watch, batch_size=self.batch_size)
        return as_map(found[self.layer], batch.shape[1:3], self.layer)

    def gradients(
        self, batch: np.ndarray, resolved: Resolved
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the layer gives, and the gradient of the score by it."""
        found = self.probe.differentiate(
            batch,
            resolved.score,
            at=self.layer,
            watch=resolved.watch,
            data=resolved.data,
            batch_size=self.batch_size,
        )
        size = batch.shape[1:3]
        return (
            as_map(found.values, size, self.layer),
            as_map(found.gradients, size, self.layer),
        )


def grad_cam(
    model: keras.Model | Probe,
    images: Any,
    target: TargetLike = None,
    *,
    method: str = "grad_cam",
    layer: Any = None,
    channels: int | None = None,
    transform: Any = None,
    batch_size: int = 8,
) -> HeatMaps:
    """Show where in images what speaks for an answer is: `CAM` in one call.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.MetaFormer((1, 1), (8, 8), input_shape=(32, 32, 3), classes=5)
    >>> found = grad_cam(model, np.zeros((1, 32, 32, 3), "float32"), target=3)
    >>> found.labels
    ('class 3',)

    Args:
        model: as of `CAM`.
        images: as of `CAM.__call__`.
        target: as of `CAM.__call__`.
        method: as of `CAM`.
        layer: as of `CAM`.
        channels: as of `CAM`.
        transform: as of `CAM.__call__`.
        batch_size: int. Images at once.

    Raises:
        ValueError: as of `CAM`.
    """
    cam = CAM(model, method, layer, channels=channels, batch_size=batch_size)
    return cam(images, target, transform=transform)


def default_layer(probe: Probe) -> str:
    """The layer whose map is shown if nothing is said.

    The end of the last stage; of the stage before it where the blocks of the last one
    mix neighbours in both halves, with kernels nearly as wide as their map (FFNet); and
    of a model of one stage (MLP-Mixer, ResMLP, gMLP, vision transformers), whose last
    block moves all over the image what it has found, the block before the last. Of
    another model than this library's it is the last layer that gives a map. How often
    its maps find planted evidence in each family stands in `docs/explain.md`.
    """
    stages = list(probe.of_kind(StageOutput))
    blocks = [
        path
        for path in probe.of_kind(MetaFormerBlock, ResidualBranch)
        if path in probe.shapes
    ]
    if len(stages) < 2 and len(blocks) > 1:
        return blocks[-2]
    if len(stages) > 1 and _channel_mixing_mixes_neighbours(probe):
        return stages[-2]
    return stages[-1] if stages else probe.last_map()


def _channel_mixing_mixes_neighbours(probe: Probe) -> bool:
    """Whether the channel mixer of the last block is a convolution of the map, too."""
    last = list(probe.of_kind(MetaFormerBlock))[-1:]
    return any(
        getattr(layer, "mixes_neighbours", False)
        for block in last
        for path, layer in probe.layers.items()
        if path.startswith(f"{block}/channel_mixing/")
    )


def as_map(values: np.ndarray, size: tuple[int, int], layer: str) -> np.ndarray:
    """A map `(batch, height, width, channels)`, of tokens too.

    Args:
        values: `(batch, height, width, channels)` or `(batch, tokens, channels)`, in
            rows; tokens beyond those of the grid, such as a class token, come first.
        size: height and width of the image.
        layer: for the error.

    Raises:
        ValueError: if it is neither.
    """
    if values.ndim == 4:
        return values
    if values.ndim == 3:
        height, width = size
        for extra in (0, 1):
            tokens = values.shape[1] - extra
            rows = round((tokens * height / width) ** 0.5)
            if rows and tokens % rows == 0 and tokens // rows * height == rows * width:
                grid = (len(values), rows, tokens // rows, values.shape[-1])
                return values[:, extra:].reshape(grid)
    raise ValueError(
        "Expected a layer that gives a map (batch, height, width, channels), or its "
        f"tokens. Received: layer={layer!r}, of shape {values.shape}"
    )


# Methods --------------------------------------------------------------------------


def _grad_cam(cam: CAM, batch: np.ndarray, resolved: Resolved) -> np.ndarray:
    values, gradients = cam.gradients(batch, resolved)
    return _weighted(values, gradients.mean(axis=(1, 2)))


def _grad_cam_plus_plus(cam: CAM, batch: np.ndarray, resolved: Resolved) -> np.ndarray:
    values, gradients = cam.gradients(batch, resolved)
    positive = np.maximum(gradients, 0)
    # The paper's maps come from a ReLU. Of signed ones the sum could cancel its
    # divisor, so the positive values stand for the map here.
    sums = np.maximum(values, 0).sum(axis=(1, 2), keepdims=True)
    weights = (positive / (2 + sums * positive)).sum(axis=(1, 2))
    return _weighted(values, weights)


def _layer_cam(cam: CAM, batch: np.ndarray, resolved: Resolved) -> np.ndarray:
    values, gradients = cam.gradients(batch, resolved)
    return (np.maximum(gradients, 0) * values).sum(axis=-1)


def _score_cam(cam: CAM, batch: np.ndarray, resolved: Resolved) -> np.ndarray:
    values = cam.activations(batch)
    found = []
    for index, image in enumerate(batch):
        channels = values[index]
        order = np.argsort(-channels.std(axis=(0, 1)), kind="stable")
        chosen = channels[..., order[: cam.channels]]
        lowest = chosen.min(axis=(0, 1))
        span = chosen.max(axis=(0, 1)) - lowest
        masks = (chosen - lowest) / np.where(span > 0, span, 1)
        masks = resized(np.moveaxis(masks, -1, 0), batch.shape[1:3])[..., np.newaxis]
        colour = image.mean(axis=(0, 1))
        scores = np.concatenate(
            [
                cam.probe.scores(
                    some * image + (1 - some) * colour,
                    resolved.score,
                    watch=resolved.watch,
                    data=resolved.of([index] * len(some)).data,
                    batch_size=cam.batch_size,
                )
                for some in _in_parts(masks, cam.batch_size)
            ]
        )
        powers = np.exp(scores - scores.max())
        weights = powers / powers.sum()
        found.append((chosen * weights).sum(axis=-1))
    return np.stack(found)


def _in_parts(masks: np.ndarray, size: int) -> list[np.ndarray]:
    """Parts of one size, of which the last one is the rest, where there is one."""
    return [masks[start : start + size] for start in range(0, len(masks), size)]


def _eigen_cam(cam: CAM, batch: np.ndarray, resolved: Resolved) -> np.ndarray:
    values = cam.activations(batch)
    number, height, width, channels = values.shape
    tokens = values.reshape(number, height * width, channels).astype("float64")
    tokens -= tokens.mean(axis=1, keepdims=True)
    # Of the places, which are fewer than the channels in the last stages.
    left, lengths, _ = np.linalg.svd(tokens, full_matrices=False)
    first = left[..., 0] * lengths[..., :1]
    sign = np.where((first**3).sum(axis=-1, keepdims=True) < 0, -1, 1)
    return (first * sign).reshape(number, height, width)


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.einsum("bhwc,bc->bhw", values, weights)


METHODS: dict[str, Callable[[CAM, np.ndarray, Resolved], np.ndarray]] = {
    "grad_cam": _grad_cam,
    "grad_cam_plus_plus": _grad_cam_plus_plus,
    "layer_cam": _layer_cam,
    "score_cam": _score_cam,
    "eigen_cam": _eigen_cam,
}
