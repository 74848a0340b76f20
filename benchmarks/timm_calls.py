"""timm's models, computed in an interpreter that has torch and timm."""

import contextlib
from collections.abc import Callable
from typing import Any

from benchmarks.contender import DTYPES, Job
from keras_metaformer_lite.weights.timm_names import timm_name


def make(request: dict) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
    """The call, and what gives its peak of device memory and the device's name.

    Args:
        request: a `Job`; the options are `compile` (torch.compile as it comes) and
            `channels_last`.

    Raises:
        ValueError: if timm has no such model.
    """
    import timm  # pyright: ignore[reportMissingImports]: in the peers' environment
    import torch

    job = Job.from_dict(request)
    case, options = job.case, job.contender.options
    name = timm_name(case.model)
    if name is None or not timm.is_model(name):
        raise ValueError(f"timm has no such model. Received: model={case.model!r}")
    device = torch_device(case.device)
    mixed = case.dtype.startswith("mixed_")
    compute = getattr(torch, DTYPES[case.dtype])
    size = case.resolution
    # Only models with a weight for every token are made for one size.
    tied = name.endswith("_224")
    model = timm.create_model(name, **({"img_size": size} if tied else {}))
    model = model.to(device=device, dtype=torch.float32 if mixed else compute)
    images = torch.randn(case.batch, 3, size, size, device=device)
    if not mixed:
        images = images.to(compute)
    if "channels_last" in options:
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    training = case.mode == "training"
    model.train(training)
    forward: Any = torch.compile(model) if "compile" in options else model

    def precision() -> Any:
        if not mixed:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=compute)

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    if not training:

        def call() -> None:
            with torch.inference_mode(), precision():
                forward(images)
            wait()

    else:
        labels = torch.arange(case.batch, device=device) % 1000
        # The fused form is the fastest that torch has, on CPUs too.
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        scaler = torch.amp.GradScaler(
            device.type, enabled=case.dtype == "mixed_float16"
        )
        loss_function = torch.nn.CrossEntropyLoss()

        def call() -> None:
            with precision():
                loss = loss_function(forward(images), labels)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            loss.item()  # as a training loop that shows its loss
            wait()

    return call, lambda: torch_memory_and_name(device)


def torch_device(device: str) -> Any:
    """The device for torch, checked.

    Raises:
        RuntimeError: if there is no GPU for torch.
    """
    import torch

    if device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU. Received: device='gpu'")
    return torch.device("cuda")


def torch_memory_and_name(device: Any) -> dict[str, Any]:
    """`peak_device_memory` and `device_name`, None on a CPU."""
    import torch

    if device.type == "cpu":
        return {"peak_device_memory": None, "device_name": None}
    return {
        "peak_device_memory": torch.cuda.max_memory_allocated(),
        "device_name": torch.cuda.get_device_name(device),
    }
