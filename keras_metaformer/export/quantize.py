"""Smaller number formats for a float32 TFLite file, through litert-quantizer."""

import contextlib
import io
import logging
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_metaformer.export.options import SIGNATURE

#: What `to_litert(quantize=...)` takes besides None.
FORMATS = ("float16", "dynamic", "int8")

#: Statistics of norms: their range is too wide for eight bits.
_KEPT_IN_FLOAT = ("SQUARED_DIFFERENCE", "MEAN", "RSQRT")

# Logging and the standard streams belong to all of the process.
_LOCK = threading.Lock()


def quantize_file(content: bytes, form: str, calibration: np.ndarray | None) -> bytes:
    """The file in another number format.

    Args:
        content: a float32 file, as `convert` makes it.
        form: `"float16"` (weights), `"dynamic"` (int8 weights, activations quantised
            as they come) or `"int8"` (both quantised beforehand).
        calibration: for `"int8"`, float32 inputs `(number, height, width, channels)`.

    Raises:
        ImportError: if litert-quantizer is not installed.
    """
    try:
        from litert_quantizer import algorithm_manager, qtyping, quantizer, recipe
    except ImportError as error:
        raise ImportError(
            f"quantize={form!r} needs litert-quantizer: pip install "
            "'keras-metaformer[export]'"
        ) from error
    tool = quantizer.Quantizer(bytearray(content))
    names, algorithms = qtyping.TFLOperationName, algorithm_manager.AlgorithmName

    def weights_as_float16(operation: Any) -> None:
        tool.update_quantization_recipe(
            regex=".*",
            operation_name=operation,
            op_config=qtyping.OpQuantizationConfig(
                weight_tensor_config=qtyping.TensorQuantizationConfig(
                    num_bits=16, dtype=qtyping.TensorDataType.FLOAT
                ),
                compute_precision=qtyping.ComputePrecision.FLOAT,
                explicit_dequantize=True,
            ),
            algorithm_key=algorithms.FLOAT_CASTING,
        )

    calibrated = None
    with _LOCK, _quiet():
        if form == "float16":
            weights_as_float16(names.ALL_SUPPORTED)
        elif form == "dynamic":
            tool.load_quantization_recipe(recipe.dynamic_wi8_afp32())
            # XNNPACK takes no depthwise convolution of this kind; few weights anyway.
            weights_as_float16(names.DEPTHWISE_CONV_2D)
        else:
            tool.load_quantization_recipe(recipe.static_wi8_ai8())
            for operation in (names.INPUT, names.OUTPUT, *map(names, _KEPT_IN_FLOAT)):
                tool.update_quantization_recipe(
                    regex=".*",
                    operation_name=operation,
                    algorithm_key=algorithms.NO_QUANTIZE,
                )
            assert calibration is not None
            samples = [{"image": image[None]} for image in calibration]
            calibrated = tool.calibrate({SIGNATURE: samples})
        quantized = tool.quantize(calibrated, enable_progress_report=False)
    return bytes(quantized.quantized_model or b"")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's progress bars and log lines from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(before)
