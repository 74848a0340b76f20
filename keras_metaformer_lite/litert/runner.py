"""Running exported models in Python: ai-edge-litert, NumPy and Pillow, no Keras."""

import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import EvaluationTransform, load_image
from keras_metaformer_lite.litert.errors import ModelFileError
from keras_metaformer_lite.litert.metadata import About, read_about, read_labels
from keras_metaformer_lite.litert.operators import FLOAT32, INT8, UINT8
from keras_metaformer_lite.litert.tables import DamagedFileError
from keras_metaformer_lite.litert.verify import VerifiedFile, verify
from keras_metaformer_lite.litert.weight_cache import with_cache

# What a flatbuffer's offsets reach.
_LARGEST_FILE = (1 << 31) - 1


class LiteRTModel:
    """A `.tflite` image classifier, ready to run.

    The file may be a stranger's: it is checked before the runtime sees it (`verify`).
    Threads may share a model; they take turns.

    Example:

    >>> model = LiteRTModel("digits.tflite")  # doctest: +SKIP
    >>> model.classify("seven.png", top=1)  # doctest: +SKIP
    [[('7', 0.99)]]

    Args:
        path: the file.
        num_threads: int. Threads of the CPU.
        weight_cache: path of a folder in which XNNPACK's packed weights are kept, one
            file for each model, so that the next start is faster and processes share
            them; None for no cache.

    Attributes:
        labels: one per class, or None where the file has none.
        classes: int. How many numbers the model gives for an image.
        transform: `EvaluationTransform` of photographs, or None where the model takes
            no square RGB images.
        input_shape: `(height, width, channels)`.
        input_dtype: NumPy dtype of the input.
        takes_pixels: whether the input is pixels 0..255 (the preprocessing is in the
            file); None where the file does not say.
        gives: `"probabilities"` or `"logits"`; None where the file does not say.

    Raises:
        ModelFileError: if the file is missing, empty, cut off, damaged, no TFLite file,
            or no image classifier with one input and one output of static shape, made
            of operators that are known here.
        ImportError: if ai-edge-litert is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        num_threads: int = 1,
        weight_cache: str | os.PathLike[str] | None = None,
    ) -> None:
        if num_threads < 1:
            raise ValueError(
                f"`num_threads` must be positive. Received: num_threads={num_threads}"
            )
        self.path = Path(path)
        content = _checked_content(self.path)
        verified = _verified(content, self.path)
        self.input_shape: tuple[int, ...] = verified.image.shape[1:]
        self.input_dtype = np.dtype(
            "float32" if verified.image.type == FLOAT32 else "uint8"
        )
        self.classes = int(verified.output.shape[-1])
        try:
            about = read_about(verified.metadata)
            self.labels = read_labels(content, self.classes)
            self.transform = _transform(self.input_shape, about)
        except Exception as error:  # Damaged archives and texts raise anything.
            raise ModelFileError(
                "Expected a whole .tflite file; its labels or metadata cannot be read "
                f"({type(error).__name__}: {error}). Received: path={str(path)!r}"
            ) from error
        self.takes_pixels = True if self.input_dtype == np.uint8 else about.takes_pixels
        self.gives = about.output
        # The runtime keeps one image's numbers: threads take turns.
        self._lock = threading.Lock()
        self._interpreter = _interpreter(content, self.path, num_threads)
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()
        self._compiled = None
        if weight_cache is not None:
            self._compiled = with_cache(
                content,
                Path(weight_cache),
                lambda cache: _CompiledModel(content, num_threads, cache),
            )

    @property
    def image_description(self) -> ImageDescription | None:
        """How the model wants its images, or None where they are no photographs."""
        if self.transform is None or not self.takes_pixels:
            return None
        return ImageDescription(
            self.transform,
            includes_preprocessing=True,
            output=self.gives or "logits",
            class_names=None if self.labels is None else tuple(self.labels),
        )

    def predict(self, images: Any) -> np.ndarray:
        """The model's output for each image.

        Args:
            images: a path, a Pillow image, an array `(height, width, channels)` or
                `(number, height, width, channels)`, or a list of any of these. Files
                and Pillow images are resized and cut as the model was evaluated;
                arrays must have the model's size, float ones its range of values.

        Returns:
            float32 array `(number, classes)`: probabilities or logits, as exported.

        Raises:
            ValueError: if an array has another shape or type, or a file or Pillow
                image is given to a model that does not take pixels.
            ImageError: if a file cannot be read as an image.
        """
        prepared = [self._prepared(image) for image in _one_by_one(images)]
        if not prepared:
            return np.zeros((0, int(self._output["shape"][-1])), "float32")
        return np.concatenate([self._run(image) for image in prepared])

    def probabilities(self, images: Any) -> np.ndarray:
        """What `predict` gives, after a softmax where that is logits.

        Of a file that does not say what it gives, an image's output is taken for
        logits unless it adds up to 1 without a negative value.
        """
        scores = self.predict(images)
        logits = np.full(len(scores), self.gives == "logits")
        if self.gives is None:
            logits = (np.abs(scores.sum(-1) - 1) > 0.05) | (scores < 0).any(-1)
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        softmax = powers / powers.sum(-1, keepdims=True)
        return np.where(logits[:, None], softmax, scores)

    def check_takes_photographs(self) -> None:
        """Raise a `ModelFileError` if photographs cannot be given to the model.

        That is, unless it takes square RGB images of pixels 0..255.
        """
        if self.transform is None:
            raise ModelFileError(
                "Expected a model of square RGB images, to give photographs to. "
                f"Received: input_shape={self.input_shape} in {str(self.path)!r}"
            )
        if not self.takes_pixels:
            raise ModelFileError(
                "Expected a model that takes pixels 0..255, to give photographs to, "
                "and the file does not say so: export it with the preprocessing "
                "(include_preprocessing=True, or mean and std). "
                f"Received: {str(self.path)!r}"
            )

    def classify(self, images: Any, top: int = 5) -> list[list[tuple[str, float]]]:
        """The `top` classes of each image, best first, as `(label, score)`.

        Without labels in the file, a class is named by its number.
        """
        if top < 1:
            raise ValueError(f"`top` must be positive. Received: top={top}")
        results = []
        for scores in self.predict(images):
            best = np.argsort(-scores, kind="stable")[:top]
            results.append(
                [
                    (
                        str(i) if self.labels is None else self.labels[i],
                        float(scores[i]),
                    )
                    for i in best
                ]
            )
        return results

    def _run(self, image: np.ndarray) -> np.ndarray:
        with self._lock:
            if self._compiled is not None:
                size = int(self._output["shape"][-1])
                output = self._compiled.run(image[None], size, self._output["dtype"])
            else:
                output = self._invoked(image)
        return _dequantized(output, self._output).reshape(1, -1)

    def _invoked(self, image: np.ndarray) -> np.ndarray:
        self._interpreter.set_tensor(self._input["index"], image[None])
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise ModelFileError(
                "Expected a .tflite file that can be run; running it failed: "
                f"{error}. Received: path={str(self.path)!r}"
            ) from error
        return self._interpreter.get_tensor(self._output["index"])

    def _prepared(self, image: Any) -> np.ndarray:
        if isinstance(image, np.ndarray):
            return self._checked_array(image)
        if not self.takes_pixels:
            raise ValueError(
                "The file does not say that it takes pixels 0..255, so only arrays "
                "can be given to it: export it with the preprocessing. "
                f"Received: {image!r} for {str(self.path)!r}"
            )
        if self.transform is None:
            raise ValueError(
                "Files and Pillow images can be given to models of square RGB images. "
                f"Received: input_shape={self.input_shape}"
            )
        if isinstance(image, (str, os.PathLike)):
            image = load_image(image)
        return self._typed(self.transform(image, normalise=False))

    def _checked_array(self, array: np.ndarray) -> np.ndarray:
        if array.shape != self.input_shape:
            raise ValueError(
                f"Expected images of shape {self.input_shape}. "
                f"Received: shape={array.shape}"
            )
        if array.dtype.kind not in "fui":
            raise ValueError(
                f"Expected an array of numbers. Received: dtype={array.dtype}"
            )
        return self._typed(array)

    def _typed(self, array: np.ndarray) -> np.ndarray:
        if self.input_dtype.kind == "f":
            return array.astype(self.input_dtype)
        limits = np.iinfo(self.input_dtype)
        return np.clip(np.rint(array), limits.min, limits.max).astype(self.input_dtype)


def _one_by_one(images: Any) -> Iterable[Any]:
    if isinstance(images, np.ndarray):
        return images if images.ndim == 4 else [images]
    if isinstance(images, (list, tuple)):
        return [each for item in images for each in _one_by_one(item)]
    return [images]


def _checked_content(path: Path) -> bytes:
    received = f"Received: path={str(path)!r}"
    try:
        # Not blocking: opening a pipe would wait for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as stream:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(
                    f"Expected a .tflite file; this is no regular file. {received}"
                )
            start = stream.read(8)
            if not start:
                raise ModelFileError(
                    f"Expected a .tflite file; this one is empty. {received}"
                )
            if start[4:] != b"TFL3":
                raise ModelFileError(
                    "Expected a .tflite file, which has 'TFL3' at byte 4; this one "
                    f"starts with {start!r}. {received}"
                )
            if status.st_size > _LARGEST_FILE:
                raise ModelFileError(
                    f"Expected a .tflite file of at most {_LARGEST_FILE} bytes; this "
                    f"one has {status.st_size}. {received}"
                )
            stream.seek(0)
            return stream.read(status.st_size)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ModelFileError(
            f"Expected a .tflite file: {reason}. {received}"
        ) from error


def _verified(content: bytes, path: Path) -> VerifiedFile:
    try:
        verified = verify(content)
    except DamagedFileError as error:
        raise ModelFileError(
            "Expected a whole .tflite file of an image classifier; found "
            f"{error}. Received: path={str(path)!r}"
        ) from error
    image, output = verified.image, verified.output
    fits = (
        len(image.shape) == 4
        and len(output.shape) >= 2
        and image.shape[0] == 1
        and output.size == output.shape[-1]
        and image.type in (FLOAT32, UINT8)
        and output.type in (FLOAT32, UINT8, INT8)
    )
    if not fits:
        raise ModelFileError(
            "Expected a model from one image (1, height, width, channels), float32 "
            "or uint8, to one output (1, classes). Received: tensors of shapes "
            f"{[image.shape, output.shape]} in {str(path)!r}"
        )
    return verified


def _transform(shape: tuple[int, ...], about: About) -> EvaluationTransform | None:
    height, width, channels = shape
    if height != width or channels != 3:
        return None
    return EvaluationTransform(height, **about.transform)


def _interpreter(content: bytes, path: Path, threads: int) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "Running .tflite files needs ai-edge-litert: pip install "
            "'keras-metaformer[export]'"
        ) from error
    try:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelFileError(
            "Expected a whole .tflite file with TFLite's own operators; it cannot be "
            f"loaded: {error}. Received: path={str(path)!r}"
        ) from error
    return interpreter


class _CompiledModel:
    """LiteRT's newer interface, the one that can cache packed weights."""

    def __init__(self, content: bytes, threads: int, weight_cache: Path) -> None:
        from ai_edge_litert.compiled_model import CompiledModel
        from ai_edge_litert.cpu_options import CpuOptions
        from ai_edge_litert.hardware_accelerator import HardwareAccelerator
        from ai_edge_litert.options import Options

        cpu = CpuOptions(
            num_threads=threads, xnnpack_weight_cache_path=os.fspath(weight_cache)
        )
        options = Options(
            hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu
        )
        self._content = content  # Which the runtime goes on reading.
        self._model = CompiledModel.from_buffer(content, options=options)
        self._inputs = self._model.create_input_buffers(0)
        self._outputs = self._model.create_output_buffers(0)

    def run(self, image: np.ndarray, size: int, dtype: Any) -> np.ndarray:
        self._inputs[0].write(image)
        self._model.run_by_index(0, self._inputs, self._outputs)
        return np.asarray(self._outputs[0].read(size, dtype))


def _dequantized(values: np.ndarray, details: dict) -> np.ndarray:
    if values.dtype.kind == "f":
        return values.astype("float32")
    scale, zero = details["quantization"]
    return ((values.astype("float32") - zero) * scale).astype("float32")
