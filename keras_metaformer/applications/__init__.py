"""The model families, one module each, in the manner of `keras.applications`."""

from keras_metaformer.applications import (
    caformer,
    convformer,
    ffnet,
    gmlp,
    identityformer,
    mlp_mixer,
    poolformer,
    poolformer_hybrids,
    poolformerv2,
    randformer,
    resmlp,
)

__all__ = [
    "caformer",
    "convformer",
    "ffnet",
    "gmlp",
    "identityformer",
    "mlp_mixer",
    "poolformer",
    "poolformer_hybrids",
    "poolformerv2",
    "randformer",
    "resmlp",
]
