"""Small models for the export tests, with weights at which every term counts."""

from typing import Any

import keras
import numpy as np

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.layers import CrossPatchLinear, SelfAttentionMixer
from keras_metaformer.models.ffnet import FFNET
from tests.small_models import build


def shake(model, seed=0, kernels=3.0):
    """Moves weights off their initial values: scales off 1, biases off 0.

    Kernels are multiplied.
    """
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "random_matrix" in weight.path or "seed" in weight.path:
            continue
        value = to_numpy(weight.value)
        if weight.name == "embeddings":  # Learned positions start at 0.
            weight.assign(0.2 * rng.standard_normal(value.shape))
        elif "variance" in weight.path:
            weight.assign(value * rng.uniform(0.5, 2.0, value.shape))
        elif value.ndim < 2:
            weight.assign(value + 0.2 * rng.standard_normal(value.shape))
        else:
            weight.assign(value * kernels)
    return model


def tiny_model(classes: int = 2) -> keras.Model:
    """What is exported in no time: a mean and a linear layer."""
    image = keras.Input((4, 4, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, keras.layers.Dense(classes)(pooled))


def hierarchical(**options):
    """Four stages, four mixers, an MLP head."""
    fields: Any = {
        "mixer": ["separable_convolution", "pooling", "self_attention", "random"],
        "norm": ["layer_norm", "group_norm", "layer_norm", "group_norm"],
        "residual_scaling": ["none", "layer", "residual", "branch"],
        "layer_scale_initial_value": 0.5,
        "input_shape": (64, 64, 3),
        "classes": 10,
        "head": "mlp",
        **options,
    }
    return shake(km.MetaFormer([1, 1, 1, 1], [16, 24, 32, 32], **fields))


def with_token_weights():
    """The mixers with a weight for every token."""
    fields: Any = {
        "mixer": ["token_mlp", "cross_patch_linear", "gated_mlp", "identity"],
        "norm": ["layer_norm", "affine", "layer_norm", "batch_norm"],
        "activation": "gelu",
        "use_bias": True,
        "input_shape": (64, 64, 3),
        "classes": 10,
    }
    return shake(km.MetaFormer([1, 1, 1, 1], [16, 16, 32, 32], **fields))


def ffnet():
    """Both kernel sizes, squeeze-and-excitation, branches to fold."""
    model = build(
        FFNET,
        depths=(1, 1, 1, 1),
        widths=(8, 16, 32, 64),
        stem_width=8,
        layer_scale_initial_value=0.5,
        squeeze_excitation=(False, False, True, True),
        input_shape=(64, 64, 3),
        classes=10,
    )
    return shake(model)


def hybrid():
    """PoolFormer's hybrids: positions, attention and a matrix without biases."""
    fields: Any = {
        "mixer": [
            "convolution",
            "depthwise_separable",
            CrossPatchLinear(use_bias=False),
            SelfAttentionMixer(use_bias=(False, True)),
        ],
        "position_embedding": [False, False, False, True],
        "activation": "gelu",
        "use_bias": True,
        "input_shape": (64, 64, 3),
        "classes": 10,
    }
    return shake(km.MetaFormer([1, 1, 1, 1], [16, 16, 32, 32], **fields))


def vision_transformer():
    """An isotropic model with a class token."""
    model = km.IsotropicMetaFormer(
        2,
        32,
        16,
        position_embedding=True,
        class_token=True,
        input_shape=(64, 64, 3),
        classes=10,
    )
    return shake(model)


SMALL_MODELS = {
    "hierarchical": hierarchical,
    "with_token_weights": with_token_weights,
    "ffnet": ffnet,
    "hybrid": hybrid,
    "vision_transformer": vision_transformer,
}
