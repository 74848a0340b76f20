"""Times the depthwise convolution alone, fast path against Keras' own operation.

    KERAS_BACKEND=jax python -m benchmarks.depthwise_probe --batch 8 --repeats 11

At the four sizes of ConvFormer-S18's maps at 224: the values (forward), and the values
with both gradients (training), compiled as a whole. TensorFlow runs them as a graph,
where the package uses TensorFlow's own operation, or with `--xla` under XLA. The two
forms take turns, so that other work on the machine meets both. Printed are medians in
milliseconds: of the time passed, and of the processor time of all threads, which other
work disturbs less.
"""

import argparse
import statistics
import time
from typing import Any

import keras
import numpy as np

from keras_metaformer.layers import fast_paths
from keras_metaformer.layers.operations import depthwise_convolution

SIZES = [(56, 128), (28, 256), (14, 640), (7, 1024)]  # (height = width, channels)


def make_functions(inputs, kernel, gradient, xla):
    """`{"forward": ..., "training": ...}`, callables that return when done."""
    make = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}
    return make[keras.backend.backend()](inputs, kernel, gradient, xla)


def _on_jax(inputs, kernel, gradient, xla):
    import jax

    @jax.jit
    def forward(x, k):
        return depthwise_convolution(x, k, 1)

    @jax.jit
    def training(x, k, g):
        _, backward = jax.vjp(lambda x, k: depthwise_convolution(x, k, 1), x, k)
        return backward(g)

    return {
        "forward": lambda: jax.block_until_ready(forward(inputs, kernel)),
        "training": lambda: jax.block_until_ready(training(inputs, kernel, gradient)),
    }


def _on_tensorflow(inputs, kernel, gradient, xla):
    import tensorflow as tf

    @tf.function(jit_compile=xla)
    def forward(x, k):
        return depthwise_convolution(x, k, 1)

    @tf.function(jit_compile=xla)
    def training(x, k, g):
        with tf.GradientTape() as tape:
            tape.watch((x, k))
            outputs = depthwise_convolution(x, k, 1)
        gradients: Any = tape.gradient(outputs, (x, k), g)
        return gradients

    return {
        "forward": lambda: forward(inputs, kernel).numpy(),
        "training": lambda: [t.numpy() for t in training(inputs, kernel, gradient)],
    }


def _on_torch(inputs, kernel, gradient, xla):
    import torch

    synchronize = torch.cuda.synchronize if inputs.is_cuda else lambda: None

    def forward():
        with torch.no_grad():
            depthwise_convolution(inputs, kernel, 1)
        synchronize()

    def training():
        x, k = inputs.detach().requires_grad_(), kernel.detach().requires_grad_()
        torch.autograd.grad(depthwise_convolution(x, k, 1), (x, k), gradient)
        synchronize()

    return {"forward": forward, "training": training}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--xla", action="store_true", help="on TensorFlow")
    options = parser.parse_args()
    print(f"backend {keras.backend.backend()}, {vars(options)}")
    print("map          what      form   wall ms  processor ms  ratio wall / processor")
    for size, channels in SIZES:
        random = np.random.default_rng(0)
        inputs, kernel, gradient = (
            keras.ops.convert_to_tensor(random.normal(size=shape), options.dtype)
            for shape in (
                (options.batch, size, size, channels),
                (7, 7, channels, 1),
                (options.batch, size, size, channels),
            )
        )
        forms = {}
        for form, enabled in (("plain", False), ("fast", True)):
            with fast_paths.switched(enabled):
                forms[form] = make_functions(inputs, kernel, gradient, options.xla)
                for function in forms[form].values():
                    function()  # traced and compiled while the switch stands
        for what in ("forward", "training"):
            wall, processor = {"plain": [], "fast": []}, {"plain": [], "fast": []}
            for _ in range(options.repeats):
                for form, enabled in (("plain", False), ("fast", True)):
                    with fast_paths.switched(enabled):
                        start, start_processor = (
                            time.perf_counter(),
                            time.process_time(),
                        )
                        forms[form][what]()
                        wall[form].append(time.perf_counter() - start)
                        processor[form].append(time.process_time() - start_processor)
            medians = {
                form: (
                    statistics.median(wall[form]) * 1e3,
                    statistics.median(processor[form]) * 1e3,
                )
                for form in wall
            }
            for form, (wall_ms, processor_ms) in medians.items():
                name = f"{size}x{size}x{channels}"
                print(
                    f"{name:12} {what:9} {form:6} {wall_ms:7.2f} {processor_ms:13.2f}"
                )
            ratios = [f / p for p, f in zip(*medians.values(), strict=True)]
            print(f"{'':41}{ratios[0]:18.3f} / {ratios[1]:.3f}", flush=True)


if __name__ == "__main__":
    main()
