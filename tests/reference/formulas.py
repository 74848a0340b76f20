"""The layers' formulas in plain NumPy, written from the papers, in float64."""

import math

import numpy as np


def star_relu(x, scale, bias):
    return scale * np.maximum(x, 0.0) ** 2 + bias


def squared_relu(x):
    return np.where(x > 0, x * x, 0.0)


def gelu(x):
    return x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def gelu_tanh(x):
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1.0 + np.tanh(inner))


def as_map(x):
    """A sequence `(batch, tokens, channels)` as a map of width 1."""
    return x[:, :, None] if x.ndim == 3 else x


def pool(x, size):
    """Average over the positions of a window that lie inside the map."""
    if x.ndim == 3:
        return pool(as_map(x), size)[:, :, 0]
    _, height, width, _ = x.shape
    half = size // 2
    y = np.empty_like(x)
    for i in range(height):
        for j in range(width):
            rows = slice(max(0, i - half), i + half + 1)
            columns = slice(max(0, j - half), j + half + 1)
            y[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
    return y


def pooling_mixer(x, size=3):
    return pool(x, size) - x


def random_mixer(x, matrix):
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    return np.einsum("ts,bsc->btc", matrix, flat).reshape(x.shape)


def convolution(x, kernel, strides=1, padding=0):
    """Kernel `(height, width, in, out)`; zeros around the map."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    size = kernel.shape[0]
    height = (x.shape[1] - size) // strides + 1
    width = (x.shape[2] - size) // strides + 1
    y = np.zeros((x.shape[0], height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            window = x[:, i * strides : i * strides + size, j * strides :][:, :, :size]
            y[:, i, j] = np.einsum("buvc,uvcd->bd", window, kernel)
    return y


def depthwise_convolution(x, kernel, strides=1, dilation_rate=1):
    """Kernel `(size, size, channels, multiplier)`, padded by half of it.

    Or `(size, channels, multiplier)` for a sequence: the middle column of a kernel that
    is zero elsewhere, on a map of width 1.
    """
    if x.ndim == 3:
        column = np.zeros((len(kernel), *kernel.shape))
        column[:, len(kernel) // 2] = kernel
        maps = as_map(x)
        return depthwise_convolution(maps, column, strides, dilation_rate)[:, :, 0]
    size, _, channels, multiplier = kernel.shape
    if dilation_rate > 1:
        size = (size - 1) * dilation_rate + 1
        taps, kernel = kernel, np.zeros((size, size, channels, multiplier))
        kernel[::dilation_rate, ::dilation_rate] = taps
    dense = np.zeros((size, size, channels, channels * multiplier))
    for channel in range(channels):
        for copy in range(multiplier):
            dense[:, :, channel, channel * multiplier + copy] = kernel[
                :, :, channel, copy
            ]
    return convolution(x, dense, strides, size // 2)


def separable_convolution(x, expand, activation, depthwise, project):
    return depthwise_convolution(activation(x @ expand), depthwise) @ project


def softmax(x):
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def self_attention(x, qkv, qkv_bias, projection, projection_bias, head_dim):
    channels = x.shape[-1]
    tokens = x.reshape(x.shape[0], -1, channels)
    query, key, value = np.split(tokens @ qkv + qkv_bias, 3, axis=-1)
    y = np.empty_like(query)
    for start in range(0, query.shape[-1], head_dim):
        head = slice(start, start + head_dim)
        logits = query[..., head] @ key[..., head].swapaxes(1, 2)
        y[..., head] = softmax(logits / math.sqrt(head_dim)) @ value[..., head]
    return (y @ projection + projection_bias).reshape(x.shape)


def normalize(x, axes, epsilon):
    """Zero mean and unit variance over some axes."""
    mean = x.mean(axis=axes, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon)


def residual_step(x, transform, norm, residual_scale=1.0, layer_scale=1.0):
    return residual_scale * x + layer_scale * transform(norm(x))


def affine(x, scale, offset):
    return x * scale + offset


def token_linear(x, kernel, bias):
    """`x` of shape (batch, tokens, channels), `kernel` (tokens, new tokens)."""
    return np.einsum("tu,btc->buc", kernel, x) + bias[:, None]


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))
