"""Finding a model by a pattern."""

import fnmatch

from keras_metaformer.models import registry
from keras_metaformer.names import simplify
from keras_metaformer.weights import catalogue


def list_models(pattern: str = "*", *, weights: str | None = None) -> list[str]:
    """Names of the constructors that match.

    Args:
        pattern: with the wildcards `*` and `?`, such as `"caformer*"`. Upper and lower
            case and underscores make no difference.
        weights: keep only models that have weights of this tag, such as
            `"imagenet_384"`.

    Returns:
        The constructors' names, such as `"CAFormerS18"`, family by family.

    Raises:
        ValueError: if no checkpoint at all has the tag.
    """
    found = [
        name
        for name in registry.names()
        if fnmatch.fnmatchcase(simplify(name), simplify(pattern))
    ]
    if weights is None:
        return found
    tags = {checkpoint.tag for checkpoint in catalogue.all_checkpoints()}
    if weights not in tags:
        raise ValueError(
            f"`weights` must be one of {sorted(tags)}. Received: weights={weights!r}"
        )
    return [name for name in found if weights in catalogue.list_weights(name)]
