"""A Keras model that PyTorch trains with a copy in each process."""

from typing import Any

import keras
import torch
import torch.distributed as group
from torch.nn.parallel import DistributedDataParallel


class Replica(keras.Model):
    """Trains a model through `DistributedDataParallel`, with `fit`.

    Gradients are means over the processes before the optimizer has them. So are the
    moments of batch norms, and metrics are those of all images: what all processes hold
    is equal at any time.

    Args:
        model: what is trained: a classifier, or a `Distiller`.
        keras_wraps: bool. Whether `fit` wraps what it trains by itself.
    """

    def __init__(self, model: keras.Model, keras_wraps: bool = False) -> None:
        super().__init__(name=model.name)
        self.model = model
        for layer in model._flatten_layers():
            if type(layer) is keras.layers.BatchNormalization:
                layer._moments = _Moments(layer)  # pyright: ignore[reportAttributeAccessIssue]
        # Hidden from Keras and torch, which would find the model in itself.
        self._parallel = (lambda: None) if keras_wraps else _holding(model)
        self.built = True

    def call(self, inputs, training=None):
        parallel = self._parallel() if training else None
        run: Any = self.model if parallel is None else parallel
        return run(inputs, training=training)

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **kwargs: Any):
        super().compile(optimizer, loss, **kwargs)
        # Its `compute_loss` is what counts, a distiller's for one.
        self.model.compile(optimizer, loss)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return self.model.compute_loss(x, y, y_pred, sample_weight, training)

    def train_step(self, data):
        variables = [variable.value for variable in self.metrics_variables]
        before = [value.detach().clone() for value in variables]
        with torch.no_grad():
            for value in variables:
                value.zero_()
        super().train_step(data)
        # What the step has added, over all processes.
        with torch.no_grad():
            added = torch.cat([value.reshape(-1) for value in variables])
            group.all_reduce(added)
            parts = added.split([value.numel() for value in variables])
            for value, old, part in zip(variables, before, parts, strict=True):
                value.copy_(old + part.reshape(value.shape))
        return self.get_metrics_result()


def _holding(model: Any):
    parallel = DistributedDataParallel(model)
    return lambda: parallel


class _Moments:
    """Mean and variance over the images of all processes, of a batch norm."""

    def __init__(self, layer: Any) -> None:
        self._axes = tuple(layer._reduction_axes)

    def __call__(self, inputs: Any, mask: Any) -> tuple[Any, Any]:
        if mask is not None:
            raise ValueError("Batch norms over several processes take no mask.")
        values = inputs.float()
        sums = torch.stack([values.mean(self._axes), values.square().mean(self._axes)])
        mean, square = _MeanOverProcesses.apply(sums)
        variance = square - mean.square()
        return mean.to(inputs.dtype), variance.to(inputs.dtype)


class _MeanOverProcesses(torch.autograd.Function):
    """Of parts of equal size; its gradient is the mean of the processes' gradients."""

    @staticmethod
    def forward(context: Any, value: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        value = value.clone()
        group.all_reduce(value)
        return value / group.get_world_size()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient = gradient.contiguous().clone()
        group.all_reduce(gradient)
        return gradient / group.get_world_size()
