"""Operations for torch, which runs each by itself: few of them, and no copies."""

import math
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.fx.experimental.symbolic_shapes import guard_or_false
from torch.nn import functional

from keras_metaformer.layers.tracing import constant, in_function_transform
from keras_metaformer_lite import processor


def star_relu(inputs: Any, scale: Any, bias: Any, overwrite: bool) -> Any:
    """StarReLU in two passes over the map, with one kept for the gradient."""
    if torch.compiler.is_compiling():  # fuses and recomputes by itself
        return scale * torch.square(torch.relu(inputs)) + bias
    if torch.is_grad_enabled():
        return _StarReLU.apply(inputs, scale, bias)
    # Fresh memory costs more than the arithmetic: the pages come in one by one.
    rectified = torch.relu_(inputs) if overwrite else torch.relu(inputs)
    return _forward(rectified, scale, bias, out=rectified)


def _forward(rectified: Any, scale: Any, bias: Any, out: Any = None) -> Any:
    if _on_cpu(rectified):  # Elsewhere reading the number would wait.
        return torch.addcmul(bias, rectified, rectified, value=scale.item(), out=out)
    return torch.addcmul(bias, rectified, rectified * scale, out=out)


class _StarReLU(torch.autograd.Function):
    """Differentiable once; keeps the rectified map alone."""

    @staticmethod
    def forward(ctx, inputs, scale, bias):  # pyright: ignore[reportIncompatibleMethodOverride]
        rectified = torch.relu(inputs)
        ctx.save_for_backward(rectified, scale)
        return _forward(rectified, scale, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
        rectified, scale = ctx.saved_tensors
        product = gradient * rectified
        scale_gradient = bias_gradient = None
        if ctx.needs_input_grad[1]:
            scale_gradient = _dot(product, rectified).to(scale.dtype).reshape(1)
        if ctx.needs_input_grad[2]:
            total = gradient.sum(dtype=torch.promote_types(scale.dtype, torch.float32))
            bias_gradient = total.to(scale.dtype).reshape(1)
        # Last, as it overwrites what the scale's gradient is made of.
        inputs_gradient = product.mul_(2 * scale) if ctx.needs_input_grad[0] else None
        return inputs_gradient, scale_gradient, bias_gradient


def _dot(first: Any, second: Any) -> Any:
    """The sum of the products, in float32 at least."""
    if first.dtype in (torch.float32, torch.float64):
        # Row by row: the sums of one long dot product would lose digits.
        width = first.shape[-1]
        return torch.linalg.vecdot(
            first.reshape(-1, width), second.reshape(-1, width)
        ).sum()
    return (first.float() * second.float()).sum()


def squared_relu(inputs: Any, overwrite: bool) -> Any:
    """Squared ReLU, in the inputs' memory where that may be."""
    if torch.is_grad_enabled() or not overwrite:
        return torch.square(torch.relu(inputs))
    return inputs.relu_().square_()


def gelu(inputs: Any, approximate: bool) -> Any:
    """Torch's own, whose form is named in either case.

    Keras names one of them only, which torch's compiler takes for equal to the other
    where it looks for blocks that agree.
    """
    return functional.gelu(inputs, approximate="tanh" if approximate else "none")


def layer_norm(inputs: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    """Torch's own layer norm."""
    return functional.layer_norm(inputs, inputs.shape[-1:], scale, bias, epsilon)


def dense(inputs: Any, kernel: Any, bias: Any) -> Any:
    """The matrix product, and the bias in a step of its own.

    One operation for both would fill its output with the bias beforehand.
    """
    if _is_for_one_dnn(inputs, kernel):
        return _one_dnn_product(inputs, kernel, bias)
    outputs = torch.matmul(inputs, kernel)
    if bias is None:
        return outputs
    if torch.is_grad_enabled():
        return outputs + bias
    return outputs.add_(bias)


_FUNCTION_TRANSFORMS: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]

#: Multiplications from which oneDNN's product, which prepares itself for each call, is
#: ahead of MKL's.
_ONE_DNN_PAYS_FROM = 2_000_000


def _is_for_one_dnn(inputs: Any, kernel: Any) -> bool:
    """Whether a product is oneDNN's, which knows no gradients."""
    if torch.is_grad_enabled() or not _prefers_one_dnn():
        return False
    # Not where more than the numbers is asked for.
    if torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return False
    if torch.compiler.is_exporting() or torch.is_autocast_enabled("cpu"):
        return False
    if not _on_cpu(inputs) or {inputs.dtype, kernel.dtype} != {torch.float32}:
        return False
    rows = math.prod(inputs.shape[:-1])
    multiplications = rows * kernel.numel()
    if torch.compiler.is_compiling():
        if in_function_transform():
            return False
        # A number of rows that only a run will tell is taken for a small one.
        return guard_or_false(rows != 1) and guard_or_false(
            multiplications >= _ONE_DNN_PAYS_FROM
        )
    if rows == 1 or multiplications < _ONE_DNN_PAYS_FROM:
        return False
    return _is_plain(inputs) and _is_plain(kernel)


def _is_plain(tensor: Any) -> bool:
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and not _FUNCTION_TRANSFORMS.is_functorch_wrapped_tensor(tensor)
        and forward_ad.unpack_dual(tensor).tangent is None
    )


@constant
def _prefers_one_dnn() -> bool:
    """Whether torch's oneDNN multiplies faster than its MKL: on processors of AMD.

    Both are in torch's builds for x86, and `matmul` takes MKL.

    Seen with: torch 2.13.0.
    Gain: on an AMD EPYC with AVX-512, two threads, the products of ConvFormerS18 take
    22.2 ms instead of 24.4 in a batch of four, 6.0 instead of 6.6 for a single image.
    On an Intel Xeon the two are alike.
    """
    return (
        processor.vendor() == "AuthenticAMD"
        and "avx512f" in processor.flags()
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _one_dnn_product(inputs: Any, kernel: Any, bias: Any) -> Any:
    if torch.compiler.is_compiling():
        return torch.ops.keras_metaformer.dense(inputs, kernel, bias)
    return _run_one_dnn_product(inputs, kernel, bias)


def _run_one_dnn_product(inputs: Any, kernel: Any, bias: Any) -> Any:
    return torch.ops.mkldnn._linear_pointwise(inputs, kernel.t(), bias, "none", [], "")


def _shape_of_product(inputs: Any, kernel: Any, bias: Any) -> Any:
    del bias
    return inputs.new_empty((*inputs.shape[:-1], kernel.shape[-1]))


if not hasattr(torch.ops.keras_metaformer, "dense"):  # of an earlier import
    # As an operation of its own, torch's compiler leaves the kernel as it is; in
    # oneDNN's it would turn it at each call.
    _LIBRARY = torch.library.Library("keras_metaformer", "FRAGMENT")
    _LIBRARY.define("dense(Tensor inputs, Tensor kernel, Tensor? bias) -> Tensor")
    _LIBRARY.impl("dense", _run_one_dnn_product, "CPU")
    torch.library.register_fake(
        "keras_metaformer::dense", _shape_of_product, lib=_LIBRARY
    )


def residual_sum(inputs: Any, scale: Any, branch: Any, overwrite: bool) -> Any:
    """`scale * inputs + branch` in one pass."""
    if overwrite and not torch.is_grad_enabled() and branch.dtype == inputs.dtype:
        # By methods: torch's function transforms do not know `out`.
        return branch.add_(inputs) if scale is None else branch.addcmul_(inputs, scale)
    return inputs + branch if scale is None else torch.addcmul(branch, inputs, scale)


def attention(query: Any, key: Any, value: Any) -> Any:
    """The fused attention, on views of what the linear layer gave."""
    heads_first = (part.transpose(1, 2) for part in (query, key, value))
    return functional.scaled_dot_product_attention(*heads_first).transpose(1, 2)


# Channels-last maps, seen as channels-first tensors in torch's `channels_last` memory
# format: none of the following copies its input or output.


def average_pool(inputs: Any, size: int) -> Any:
    """The average pooling, which pads by itself; None where its gradient is wrong.

    On GPUs torch's gradient of a padded average over maps in `channels_last` is wrong,
    without a word (pytorch/pytorch issues 188344 and, for MPS, 175190). Keras' own form
    copies the map into another order first.

    Seen with: torch 2.11.0 on an H200.
    """
    if torch.is_grad_enabled() and not _on_cpu(inputs):
        return None
    outputs = functional.avg_pool2d(
        inputs.permute(0, 3, 1, 2), size, 1, size // 2, count_include_pad=False
    )
    return outputs.permute(0, 2, 3, 1)


def depthwise_convolution(inputs: Any, kernel: Any, strides: int) -> Any:
    """The convolution in groups of one channel, which pads by itself."""
    *sizes, channels, multiplier = kernel.shape
    outputs = functional.conv2d(
        inputs.permute(0, 3, 1, 2),
        kernel.permute(2, 3, 0, 1).reshape(channels * multiplier, 1, *sizes),
        stride=strides,
        padding=[size // 2 for size in sizes],
        groups=channels,
    )
    return outputs.permute(0, 2, 3, 1)


def convolution(inputs: Any, kernel: Any, bias: Any, strides: int, padding: int) -> Any:
    """The convolution, which pads by itself."""
    size, filters = kernel.shape[0], kernel.shape[-1]
    batch, *sides, _ = inputs.shape
    height, width = ((side + 2 * padding - size) // strides + 1 for side in sides)
    if _on_cpu(inputs) and batch * height * width < filters:
        # torch would rearrange the kernel, which is larger than all patches, each time.
        padded = functional.pad(inputs, (0, 0, *(4 * (padding,))))
        patches = padded.unfold(1, size, strides).unfold(2, size, strides)
        patches = patches.permute(0, 1, 2, 4, 5, 3).reshape(batch, height, width, -1)
        return dense(patches, kernel.reshape(-1, filters), bias)
    outputs = functional.conv2d(
        inputs.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias, strides, padding
    )
    return outputs.permute(0, 2, 3, 1)


def image_norm(inputs: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    """The group norm with one group."""
    exact = inputs.dtype in (torch.float32, torch.float64)  # Squares may overflow.
    if exact and torch.compiler.is_compiling():
        return _compiled_image_norm(inputs, scale, bias, epsilon)
    if scale is None and bias is not None:  # torch fails in the gradient of that.
        scale = torch.ones_like(bias)
    outputs = functional.group_norm(inputs.permute(0, 3, 1, 2), 1, scale, bias, epsilon)
    return outputs.permute(0, 2, 3, 1)


def _compiled_image_norm(inputs: Any, scale: Any, bias: Any, epsilon: float) -> Any:
    """The norm in single operations, of which torch's compiler makes plain sums.

    For a group norm it writes loops that update a mean and a variance number by number
    (Welford's), and one over all pixels besides for the factors.

    Seen with: torch 2.13.0.
    Gain: on maps `(4, 56, 56, 64)`, one thread with AVX-512, from 0.49 to 0.38 ms of
    processor time.
    """
    centred = inputs - inputs.mean((1, 2, 3), keepdim=True)
    variance = centred.square().mean((1, 2, 3), keepdim=True)
    factor = torch.rsqrt(variance + epsilon)
    outputs = centred * (factor if scale is None else factor * scale)
    return outputs if bias is None else outputs + bias


def _on_cpu(tensor: Any) -> bool:
    return tensor.device.type == "cpu"
