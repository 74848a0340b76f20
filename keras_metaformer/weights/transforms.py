"""How the published weights want their images."""

from __future__ import annotations

from keras_metaformer_lite.images import EvaluationTransform
from keras_metaformer_lite.weights import catalogue


def transforms_for(constructor: str, tag: str | None = None) -> EvaluationTransform:
    """The evaluation transform of published weights: resize, crop, normalise.

    Example:

    >>> transform = transforms_for("ConvFormerS18", "imagenet_384")
    >>> transform.resolution
    384

    Args:
        constructor: name of the constructor, such as `"ConvFormerS18"`.
        tag: of the weights; None for the constructor's default.

    Returns:
        A callable from an image (a path, a `PIL.Image.Image`, or a `uint8` array
        `(height, width, 3)`) to a normalised `float32` array `(resolution, resolution,
        3)`, and from a list of images to a batch of such.

    Raises:
        ValueError: if there is no such constructor, or no such weights of it.
    """
    tag = tag or catalogue.default_tag(constructor)
    if tag is None:
        raise ValueError(
            "No weights are published for this model, and so no transform. "
            f"Received: constructor={constructor!r}"
        )
    return catalogue.find(constructor, tag).transform
