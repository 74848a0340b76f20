"""The roofline: a model's matrix products alone, at the speed of the backend's own.

Nothing that computes a model by matrix products can be faster than these products with
everything else left out: norms, activations, depthwise convolutions, copies. They have
the shapes of the model's layers, weights of their own, and run one after the other.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class MatrixProduct:
    """`batch` products of a `rows x inner` with an `inner x columns` matrix.

    Attributes:
        batch: number of independent products; 1 for a layer with weights, whose rows
            are the positions of all images.
        rows: of the left matrix.
        inner: columns of the left and rows of the right matrix.
        columns: of the right matrix.
        weight_is_activation: whether the right matrix depends on the image too, as in
            attention, and so is no weight of the model.
    """

    batch: int
    rows: int
    inner: int
    columns: int
    weight_is_activation: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations."""
        return self.batch * self.rows * self.inner * self.columns

    def backward(self) -> tuple["MatrixProduct", "MatrixProduct"]:
        """The products of the gradients to the left and to the right matrix."""
        return (
            MatrixProduct(self.batch, self.rows, self.columns, self.inner, True),
            MatrixProduct(self.batch, self.inner, self.rows, self.columns, True),
        )


def matrix_products(stock_model: Any, batch: int) -> list[MatrixProduct]:
    """Every matrix product of a model in the order of its graph.

    Convolutions count as the product with their unrolled patches; depthwise ones are
    none.

    Args:
        stock_model: a model of stock layers, as `stock_model` makes it.
        batch: int. Images.

    Raises:
        TypeError: if a layer has a matrix of weights and is not known here.
    """
    products = []
    for operation in stock_model.operations:
        name = type(operation).__name__
        if name in _PRODUCTS:
            products += _PRODUCTS[name](operation, batch)
        # `Scale` adds learned positions.
        elif name not in ("DepthwiseConv2D", "Scale") and any(
            len(weight.shape) > 1 for weight in getattr(operation, "weights", ())
        ):
            raise TypeError(
                "The matrix products of this layer are not known. "
                f"Received: layer={operation.name!r} of type {name}"
            )
    return products


def _positions(shape: Sequence[int], batch: int) -> int:
    return batch * math.prod(shape[1:-1])


def _dense(layer: Any, batch: int) -> Iterable[MatrixProduct]:
    inner, columns = layer.kernel.shape
    yield MatrixProduct(1, _positions(layer.input.shape, batch), inner, columns)


def _convolution(layer: Any, batch: int) -> Iterable[MatrixProduct]:
    *window, columns = layer.kernel.shape
    rows = _positions(layer.output.shape, batch)
    yield MatrixProduct(1, rows, math.prod(window), columns)


def _einsum_dense(layer: Any, batch: int) -> Iterable[MatrixProduct]:
    # Over the tokens: the weights stand to the left, once for each image.
    tokens, units = layer.kernel.shape
    yield MatrixProduct(batch, units, tokens, layer.input.shape[-1])


def _matmul(operation: Any, batch: int) -> Iterable[MatrixProduct]:
    left, right = (tensor.shape for tensor in operation.input)
    *lead, rows, inner = left
    yield MatrixProduct(batch * math.prod(lead[1:]), rows, inner, right[-1], True)


def _attention(operation: Any, batch: int) -> Iterable[MatrixProduct]:
    query, key, value = (tensor.shape for tensor in operation.input[:3])
    _, tokens, heads, width = query
    images = batch * heads
    yield MatrixProduct(images, tokens, width, key[1], True)
    yield MatrixProduct(images, tokens, value[1], value[-1], True)


_PRODUCTS: dict[str, Callable[[Any, int], Iterable[MatrixProduct]]] = {
    "Dense": _dense,
    "Conv2D": _convolution,
    "EinsumDense": _einsum_dense,
    "Matmul": _matmul,
    "DotProductAttention": _attention,
}


def with_gradients(products: list[MatrixProduct]) -> list[MatrixProduct]:
    """The products of a training step: forward, then backward.

    The first layer needs no gradient to its input, the image.
    """
    backward = []
    for index, product in reversed(list(enumerate(products))):
        to_left, to_right = product.backward()
        backward += [to_right] if index == 0 else [to_left, to_right]
    return products + backward


def products_call(
    products: list[MatrixProduct], backend: str, dtype: str, device: str
) -> Callable[[], None]:
    """A function that computes all products and waits for them.

    Args:
        products: what to compute.
        backend: `"tensorflow"` (`tf.matmul` in a graph), `"jax"` (`jnp.matmul`, each
            jitted) or `"torch"` (`torch.mm` and `torch.bmm` into existing tensors).
        dtype: `"float32"`, `"bfloat16"` or `"float16"`.
        device: `"cpu"` or `"gpu"`.
    """
    make = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[backend]
    return make(products, dtype, device)


def _shapes(product: MatrixProduct) -> tuple[tuple[int, ...], ...]:
    """Of the left matrix, the right one and the result."""
    lead = () if product.batch == 1 else (product.batch,)
    return (
        (*lead, product.rows, product.inner),
        (*lead, product.inner, product.columns),
        (*lead, product.rows, product.columns),
    )


def _operands(
    products: list[MatrixProduct], make: Callable[[tuple[int, ...]], Any]
) -> list[tuple[Any, Any]]:
    """Matrices for each product; weights of its own, activations shared by shape."""
    shared = functools.cache(make)
    pairs = []
    for product in products:
        left, right, _ = _shapes(product)
        activation = product.weight_is_activation
        pairs.append((shared(left), shared(right) if activation else make(right)))
    return pairs


def _torch(products, dtype, device):
    import torch

    options: Any = {
        "dtype": getattr(torch, dtype),
        "device": "cuda" if device == "gpu" else "cpu",
    }
    pairs = _operands(products, lambda shape: torch.rand(shape, **options))
    results = functools.cache(lambda shape: torch.empty(shape, **options))
    tasks = [
        (torch.mm if left.dim() == 2 else torch.bmm, left, right, results(shapes[2]))
        for (left, right), shapes in zip(pairs, map(_shapes, products), strict=True)
    ]

    def call() -> None:
        with torch.inference_mode():
            for multiply, left, right, result in tasks:
                multiply(left, right, out=result)
        if device == "gpu":
            torch.cuda.synchronize()

    return call


def _jax(products, dtype, device):
    import jax
    import jax.numpy as jnp

    pairs = _operands(products, lambda shape: jnp.full(shape, 0.5, dtype))
    # Not one function of all: XLA would leave out products that nobody reads, and
    # reading them costs time.
    multiply = jax.jit(jnp.matmul)

    def call() -> None:
        for left, right in pairs:
            result = multiply(left, right)
            if device == "cpu":  # where calls may overtake each other
                result.block_until_ready()
        result.block_until_ready()

    return call


def _tensorflow(products, dtype, device):
    import tensorflow as tf

    with tf.device("/GPU:0" if device == "gpu" else "/CPU:0"):
        pairs = _operands(products, lambda shape: tf.fill(shape, tf.cast(0.5, dtype)))

    @tf.function
    def multiply_all():
        read: list[Any] = []
        for left, right in pairs:
            with tf.control_dependencies(read[-1:]):
                product = tf.matmul(left, right)
            # A product that nobody reads would be left out of the graph.
            read.append(tf.reshape(product[..., :1, :1], (-1,))[0])
        return tf.add_n(read)

    def call() -> None:
        multiply_all().numpy()

    return call
