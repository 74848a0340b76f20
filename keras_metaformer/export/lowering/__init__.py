"""The model as TFLite wants it: the same function in other operations.

Every layer is lowered, by a rule for its class, to TensorFlow operations on tensors of
batch 1, static shape and rank 4 at most that XNNPACK and GPU delegates run whole:

- a linear layer on a map is a 1x1 convolution, one over the tokens too, on the
  transposed map;
- a depthwise convolution of more than 25 taps is a sum of smaller ones, because
  XNNPACK's fast kernels stop there;
- attention has its queries, keys and values from three convolutions, each
  `(1, heads, tokens, head_dim)`;
- statistics are means, never sums, which would leave the range of float16;
- factors and offsets per channel (StarReLU's, a norm's, LayerScale's) wait until a
  linear layer takes them into its weights.

A `Composite` without a rule of its own is lowered as its flow says, any other layer
without one traced through its own Keras call. TensorFlow is imported
here, so this module is imported by what runs on Keras' TensorFlow backend only.
"""

from keras_metaformer.export.lowering import (  # noqa: F401 - they register rules
    activations,
    class_token,
    convolutions,
    mixers,
    norms,
)
from keras_metaformer.export.lowering.rules import is_traced, lower, lower_model
from keras_metaformer.export.lowering.values import Value

__all__ = ["Value", "is_traced", "lower", "lower_model"]
