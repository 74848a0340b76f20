"""`to_litert`: a Keras model as a TFLite file that phones and browsers run whole."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_metaformer.arrays import to_numpy
from keras_metaformer.export import report as measure
from keras_metaformer.export.convert import convert
from keras_metaformer.export.options import GraphOptions, ends_in_softmax
from keras_metaformer.export.quantize import FORMATS, quantize_file
from keras_metaformer.export.report import ExportReport
from keras_metaformer.inference.folding import check_not_quantized
from keras_metaformer.models.pixel_range import warn_of_unexpected_pixels
from keras_metaformer.models.pyramid_model import description_of
from keras_metaformer_lite.examples import example_photographs
from keras_metaformer_lite.litert import files
from keras_metaformer_lite.litert.errors import ExportError
from keras_metaformer_lite.litert.flatbuffer import TFLiteFile
from keras_metaformer_lite.litert.metadata import add_metadata, check_transform
from keras_metaformer_lite.names import counted

#: What the output may differ from Keras, as a part of Keras' largest output.
TOLERANCES = {None: 1e-4, "float16": 2e-2, "dynamic": 1e-1, "int8": 5e-1}
_OUTPUTS = ("model", "probabilities", "logits")
_GENERATED = 4
_ACTIVATION_IMAGES = 3


def to_litert(
    model: keras.Model,
    path: str | os.PathLike[str],
    quantize: str | None = None,
    *,
    labels: Sequence[str] | None = None,
    input_size: tuple[int, int] | None = None,
    input_type: str = "float32",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    output: str = "model",
    transform: dict[str, Any] | None = None,
    calibration_images: Any = None,
    images: Any = None,
    tolerance: float | None = None,
    allow_inexact: bool = False,
    check_gpu: bool = True,
    latency_runs: int = 5,
    report_path: str | os.PathLike[str] | None = None,
    verbose: bool = True,
) -> ExportReport:
    """Export a model to a TFLite file, and check the file against the model.

    The file has batch 1, a fixed size, an input named `image` and an output named
    `probabilities` or `logits`; it consists of TFLite's own operators only, written so
    that XNNPACK (CPU) and GPU delegates take it as one piece. It is written under
    another name and put in place when all checks are done, so that `path` holds the
    old file or the whole new one at any time.

    Args:
        model: from an image `(batch, height, width, channels)` to `(batch, classes)`;
            on any backend. Where that is not TensorFlow, a child process converts.
        path: of the file, as a rule ending in `.tflite`.
        quantize: None (float32), `"float16"` (half the size; CPU and GPU), `"dynamic"`
            (int8 weights, a quarter of the size; CPU and GPU) or `"int8"` (int8
            weights and activations, for NPUs; needs `calibration_images`).
        labels: one name per class, written into the file; those of the model's
            `image_description` if not given.
        input_size: `(height, width)` where the model leaves them open, in pixels;
            likewise.
        input_type: `"float32"` or `"uint8"`. The latter needs a model that takes
            pixels 0..255, by itself or through `mean` and `std`.
        mean: per channel, of pixels 0..1. With `std` the file takes pixels 0..255 and
            normalises them itself. Not for a model that does so already
            (`include_preprocessing=True`). If not given, those of the model's
            `image_description` where that names the classes, as published weights and
            training leave it.
        std: likewise the standard deviation.
        output: `"model"` (what the model gives), `"probabilities"` or `"logits"`.
        transform: `crop_fraction`, `interpolation` and `squash` of the model's
            `EvaluationTransform`, for `LiteRTModel`; those of the model's
            `image_description` if not given.
        calibration_images: for `"int8"`, some dozens of images as the file takes them:
            array `(number, height, width, channels)`.
        images: likewise, to compare the file with the model on. If not given, the
            calibration images, or cut-outs of the package's photographs; generated
            ones where the channels are not those of a photograph.
        tolerance: largest difference from the model, as a part of its largest output;
            `TOLERANCES` if not given.
        allow_inexact: bool. Whether to write the file even where it is out of
            tolerance.
        check_gpu: bool. Whether to compile the file for the GPU, if there is a driver.
        latency_runs: int. Timed runs on 1 and 2 threads each.
        report_path: where to write the report as JSON, or None.
        verbose: bool. Whether to print the report.

    Returns:
        The report.

    Raises:
        ExportError: if the model cannot be converted, or the file is out of tolerance.
        ValueError: if an argument is out of range, `path` or `report_path` is no
            place for a file, or `model.quantize` has changed the model: its layers
            round their inputs, which no file does in the same way.
        ImportError: if a package of `keras-metaformer[export]` is missing.
    """
    path = Path(path)
    files.check_file(path)
    if report_path is not None:
        files.check_file(Path(report_path), "report_path")
    description = description_of(model)
    if description is not None:
        settings = description.transform
        labels = description.names() if labels is None else labels
        transform = transform or {
            "crop_fraction": settings.crop_fraction,
            "interpolation": settings.interpolation,
            "squash": settings.squash,
        }
        if input_size is None and None in model.input_shape[1:3]:
            input_size = (settings.resolution, settings.resolution)
        is_named = description.class_names is not None
        if is_named and not description.includes_preprocessing and mean is std is None:
            mean, std = settings.mean, settings.std
    options = _graph_options(model, input_size, mean, std, output)
    check_not_quantized(model, "export it (`quantize=` rounds the file's weights)")
    takes_pixels = options.mean is not None or _has_preprocessing(model)
    check_transform(transform or {})
    _check_arguments(model, quantize, input_type, takes_pixels, labels)
    calibration = _checked_images("calibration_images", calibration_images, options)
    if quantize == "int8" and calibration is None:
        raise ValueError(
            "`quantize='int8'` needs `calibration_images`, as the file takes them. "
            "Received: calibration_images=None"
        )
    compared = _checked_images("images", images, options)
    source = "the caller's"
    if compared is None:
        compared, source = calibration, "the calibration's"
    if compared is None:
        compared, source = example_images(options.input_shape, takes_pixels)
    if takes_pixels:
        for given in (calibration_images, images):
            warn_of_unexpected_pixels(given, "pixels")
    if input_type == "uint8":
        compared = np.clip(np.rint(compared), 0, 255)

    floats = convert(model, options)
    largest = measure.largest_activation(floats, compared[:_ACTIVATION_IMAGES])
    content = floats
    if quantize is not None:
        content = quantize_file(floats, quantize, calibration)
    if input_type == "uint8":
        file = TFLiteFile(content)
        file.take_uint8()
        content = file.content()
    own = {
        "output": _output_name(model, output),
        "takes_pixels": takes_pixels,
        "transform": transform or {},
    }
    content = add_metadata(content, model.name, labels, takes_pixels, own)

    with files.replacing(path) as temporary:
        files.write(temporary, content)
        result = _report(
            content, temporary, model, options, compared, check_gpu, latency_runs
        )
        result.path, result.quantize = str(path), quantize
        result.images = f"{counted(len(compared), 'image')}, {source}"
        result.tolerance = TOLERANCES[quantize] if tolerance is None else tolerance
        result.largest_activation = largest
        result.float16_headroom = measure.FLOAT16_MAXIMUM / max(largest, 1e-30)
        if verbose:
            import rich

            rich.print(result)
        if report_path is not None:
            with files.replacing(Path(report_path)) as report_file:
                files.write(report_file, (result.to_json() + "\n").encode())
        if not result.exact and not allow_inexact:
            raise ExportError(
                f"The file differs from the model by {result.relative_difference:.2g} "
                f"of its largest output, more than {result.tolerance:g}; "
                f"allow_inexact=True writes it even so. Received: path={str(path)!r}, "
                f"quantize={quantize!r}"
            )
    return result


def example_images(shape: tuple[int, int, int], pixels: bool) -> tuple[np.ndarray, str]:
    """Images to compare on: photographs, or generated where those do not fit.

    Args:
        shape: `(height, width, channels)`.
        pixels: whether values go from 0 to 255, else they are standardised.

    Returns:
        float32 array `(number, height, width, channels)`, and what it shows.
    """
    height, width, channels = shape
    if channels in (1, 3):
        images, source = example_photographs(height, width, channels), "photographs"
    else:
        images, source = _generated_images(shape), "generated"
    if not pixels:
        images = (images - images.mean()) / images.std()
    return images, source


def _generated_images(shape: tuple[int, int, int]) -> np.ndarray:
    """Smooth coloured noise, statistically nearer to photographs than white noise."""
    height, width, channels = shape
    rng = np.random.default_rng(0)
    frequencies = np.hypot(
        np.fft.fftfreq(height)[:, None] * height, np.fft.fftfreq(width) * width
    )
    noise = np.fft.fft2(
        rng.standard_normal((_GENERATED, height, width, channels)), axes=(1, 2)
    )
    # Photographs' amplitudes fall as 1 / frequency.
    smooth = np.fft.ifft2(noise / (1.0 + frequencies)[..., None], axes=(1, 2)).real
    smooth = smooth / smooth.std(axis=(1, 2, 3), keepdims=True)
    return np.clip(np.rint(128 + 60 * smooth), 0, 255).astype("float32")


def _graph_options(
    model: keras.Model,
    input_size: tuple[int, int] | None,
    mean: Any,
    std: Any,
    output: str,
) -> GraphOptions:
    if not isinstance(model, keras.Model):
        raise TypeError(
            "`to_litert` takes a Keras model. "
            f"Received: model={model!r} of type {type(model).__name__}"
        )
    if output not in _OUTPUTS:
        raise ValueError(
            f"`output` must be one of {_OUTPUTS}. Received: output={output!r}"
        )
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4 or shape[-1] is None:
        raise ValueError(
            "The model must take one image (batch, height, width, channels). "
            f"Received: input_shape={shape}"
        )
    outputs = model.output_shape
    if not isinstance(outputs, tuple) or len(outputs) != 2:
        raise ValueError(
            "The model must give (batch, classes): export it with its top, or with "
            f"`pooling`. Received: output_shape={outputs}"
        )
    size: Any = tuple(shape[1:3])
    if input_size is not None:
        fits = all(
            own in (None, new) for own, new in zip(size, input_size, strict=True)
        )
        if not fits:
            raise ValueError(
                f"The model takes images of {size} pixels. "
                f"Received: input_size={input_size}"
            )
        size = tuple(input_size)
    if None in size:
        raise ValueError(
            "The model leaves its size open, a TFLite file cannot: give "
            f"`input_size=(height, width)`. Received: input_shape={shape}"
        )
    if (mean is None) != (std is None):
        raise ValueError(
            f"`mean` and `std` are given together. Received: mean={mean}, std={std}"
        )
    if mean is not None:
        if _has_preprocessing(model):
            raise ValueError(
                "The model normalises its input itself, so `mean` and `std` would do "
                f"it twice. Received: mean={mean}, std={std}"
            )
        if len(mean) != shape[-1] or len(std) != shape[-1] or min(std) <= 0:
            raise ValueError(
                f"`mean` and `std` must have one value for each of the {shape[-1]} "
                f"channels, `std` positive ones. Received: mean={mean}, std={std}"
            )
        mean, std = (tuple(map(float, values)) for values in (mean, std))
    height, width = size
    return GraphOptions((height, width, shape[-1]), mean, std, output)


def _has_preprocessing(model: keras.Model) -> bool:
    """Whether the first thing that happens to the image is a rescaling."""
    layers = [
        layer
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    ]
    if not layers:
        return False
    if isinstance(layers[0], keras.Model):
        return _has_preprocessing(layers[0])
    return isinstance(layers[0], keras.layers.Rescaling)


def _check_arguments(
    model: keras.Model,
    quantize: str | None,
    input_type: str,
    takes_pixels: bool,
    labels: Sequence[str] | None,
) -> None:
    if quantize is not None and quantize not in FORMATS:
        raise ValueError(
            f"`quantize` must be None or one of {FORMATS}. "
            f"Received: quantize={quantize!r}"
        )
    if input_type not in ("float32", "uint8"):
        raise ValueError(
            "`input_type` must be 'float32' or 'uint8'. "
            f"Received: input_type={input_type!r}"
        )
    if input_type == "uint8" and not takes_pixels:
        raise ValueError(
            "`input_type='uint8'` needs a model that takes pixels 0..255: build it "
            "with include_preprocessing=True, or give `mean` and `std`. "
            "Received: input_type='uint8'"
        )
    classes = model.output_shape[-1]
    if labels is not None:
        if isinstance(labels, str) or len(labels) != classes:
            raise ValueError(
                f"`labels` must be one name for each of the {classes} classes. "
                f"Received: {len(labels)} labels"
            )
        broken = [label for label in labels if "\n" in label or "\r" in label]
        if broken:
            raise ValueError(
                f"`labels` must have no line breaks in them. Received: {broken[0]!r}"
            )


def _checked_images(name: str, images: Any, options: GraphOptions) -> Any:
    if images is None:
        return None
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != options.input_shape or not len(images):
        raise ValueError(
            f"`{name}` must be images of shape {options.input_shape}, in an array of "
            f"shape (number, height, width, channels). Received: shape={images.shape}"
        )
    return images.astype("float32")


def _output_name(model: keras.Model, output: str) -> str:
    if output == "model":
        return "probabilities" if ends_in_softmax(model) else "logits"
    return output


def keras_outputs(
    model: keras.Model, images: np.ndarray, options: GraphOptions
) -> np.ndarray:
    """What Keras makes of images as the file takes them, as the file gives it."""
    if options.mean is not None and options.std is not None:
        mean, std = np.array(options.mean), np.array(options.std)
        images = ((images / 255.0 - mean) / std).astype("float32")
    results = [
        to_numpy(model(ops.convert_to_tensor(image[None]), training=False))[0]
        for image in images
    ]
    outputs = np.stack(results).astype("float64")
    if options.output == "probabilities" and not ends_in_softmax(model):
        return _softmax(outputs)
    return outputs


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _report(
    content: bytes,
    path: Path,
    model: keras.Model,
    options: GraphOptions,
    images: np.ndarray,
    check_gpu: bool,
    latency_runs: int,
) -> ExportReport:
    expected = keras_outputs(model, images, options)
    got = measure.run_file(content, images).astype("float64")
    if options.output == "logits" and ends_in_softmax(model):
        got = _softmax(got)  # Keras has probabilities only.
    difference = float(np.abs(got - expected).max())
    if not np.isfinite(got).all():
        difference = float("inf")
    partitions, outside = measure.xnnpack_partitions(content)
    file = TFLiteFile(content)
    image, output = (
        file.graph.tensors[index]
        for index in (file.graph.inputs[0], file.graph.outputs[0])
    )
    return ExportReport(
        path=str(path),
        quantize=None,
        input={
            "name": image.name.decode(),
            "shape": [int(size) for size in image.shape],
            "dtype": "uint8" if image.type == 3 else "float32",
        },
        output={
            "name": output.name.decode(),
            "shape": [int(size) for size in output.shape],
        },
        size_bytes=len(content),
        operators=file.operators(),
        maximal_rank=file.maximal_rank(),
        xnnpack_partitions=partitions,
        outside_xnnpack=outside,
        gpu=measure.gpu_verdict(path) if check_gpu else "not tested: check_gpu=False",
        gpu_obstacles=measure.gpu_obstacles(file),
        images="",
        maximal_difference=difference,
        relative_difference=difference / max(float(np.abs(expected).max()), 1e-30),
        tolerance=0.0,
        top1_agreement=float(np.mean(got.argmax(-1) == expected.argmax(-1))),
        largest_activation=0.0,
        float16_headroom=0.0,
        latency_milliseconds=(
            measure.latency(content, images, latency_runs) if latency_runs else {}
        ),
    )
