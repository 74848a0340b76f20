"""What TensorFlow's optimizer makes of our forms, in this process: printed as JSON.

Run by `test_operations.py` in processes of their own, as TensorFlow decides once
in a process whether oneDNN is on.
"""

import itertools
import json
import sys
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from keras_metaformer.layers import operations
from keras_metaformer.layers.operations import tensorflow_backend
from tests.reference import formulas

SHAPES = [(2, 7, 5, 8), (None, 7, 5, 8), (2, 9, 300)]


def layer_norm(shape: tuple[Any, ...], with_bias: bool, with_gradient: bool) -> dict:
    """Whether a norm was taken, how many became one operation, and the error."""
    random = np.random.default_rng(0)
    numbers, scale, bias = (
        random.normal(size=size).astype("float32")
        for size in ([size or 3 for size in shape], shape[-1], shape[-1])
    )
    arguments = tf.Variable(scale), tf.Variable(bias) if with_bias else None, 1e-6
    taken = []

    def norm(inputs):
        hidden = tf.nn.relu(inputs)  # So that something comes before, as in models.
        taken.append(operations.layer_norm(hidden, *arguments) is not None)
        # Without a choice: what would become of the form here?
        return _without_choice(hidden, *arguments)

    def with_its_gradient(inputs):
        with tf.GradientTape() as tape:
            outputs = norm(inputs)
            total = tf.reduce_sum(outputs**2)
        return outputs, tape.gradient(total, arguments[0])

    function: Any = tf.function(
        with_its_gradient if with_gradient else norm,
        input_signature=[tf.TensorSpec(shape)],
    )
    outputs, names = _operations_that_run(function, tf.constant(numbers))
    outputs = outputs[0] if with_gradient else outputs
    rectified = np.maximum(numbers, 0).astype("float64")
    expected = scale * formulas.normalize(rectified, -1, 1e-6) + with_bias * bias
    return {
        "taken": taken[0],
        "fused": names.count("_MklLayerNorm"),
        "error": float(np.abs(outputs - expected).max() / np.abs(expected).max()),
    }


def dense() -> list[str]:
    """The operations that a dense layer with a bias becomes."""
    kernel, bias = tf.Variable(tf.ones((8, 4))), tf.Variable(tf.ones(4))
    function: Any = tf.function(
        lambda inputs: operations.dense(tf.nn.relu(inputs), kernel, bias),
        input_signature=[tf.TensorSpec((None, 7, 5, 8))],
    )
    return _operations_that_run(function, tf.ones((2, 7, 5, 8)))[1]


def _without_choice(inputs: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    choice = tensorflow_backend._has_one_dnn_norm
    tensorflow_backend._has_one_dnn_norm = lambda: True
    try:
        return operations.layer_norm(inputs, scale, bias, epsilon)
    finally:
        tensorflow_backend._has_one_dnn_norm = choice


def _operations_that_run(function: Any, inputs: Any) -> tuple[Any, list[str]]:
    """What a function returns, and the operations that were run for it."""
    context.enable_run_metadata()
    try:
        outputs = function(inputs)
        metadata = context.export_run_metadata()
    finally:
        context.disable_run_metadata()
    graphs = (graph.post_optimization_graph for graph in metadata.function_graphs)
    return outputs, [node.op for graph in graphs for node in graph.node]


if __name__ == "__main__":
    cases = itertools.product(SHAPES, (True, False), (True, False))
    report = {"layer_norm": [layer_norm(*case) for case in cases], "dense": dense()}
    json.dump(report, sys.stdout)
