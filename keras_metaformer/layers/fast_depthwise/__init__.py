"""Faster forms of the depthwise convolution, one module per backend."""
