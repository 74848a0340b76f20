"""Labels and normalisation inside a TFLite file, as MediaPipe reads them.

The layout is TensorFlow Lite's metadata schema: a flatbuffer `M001` in the buffer
`TFLITE_METADATA`, and the labels as a file in a zip archive after the model's bytes.
Written by hand because the official writers do not import on current Python versions.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

from keras_metaformer_lite.litert.flatbuffer import TFLiteFile

LABELS_FILE = "labels.txt"
_METADATA_NAME = "TFLITE_METADATA"
#: This package's own entry: what MediaPipe's schema has no words for.
_OWN_NAME = "keras_metaformer"

# Numbers of the schema's unions and enums.
_IMAGE_PROPERTIES, _FEATURE_PROPERTIES = 2, 1
_NORMALIZATION_OPTIONS = 1
_RGB = 1
_AXIS_LABELS = 2

# What may be read of a stranger's file.
_MOST_METADATA = 1 << 16
_LEAST_CROP = 0.1
_SETTINGS: dict[str, tuple[Any, str]] = {
    "crop_fraction": ((int, float), "a number"),
    "interpolation": (str, "a str"),
    "squash": (bool, "a bool"),
}


def add_metadata(
    content: bytes,
    name: str,
    labels: Sequence[str] | None,
    takes_pixels: bool,
    own: dict[str, Any],
) -> bytes:
    """The file with metadata and labels.

    Args:
        content: the file's bytes.
        name: the model's name.
        labels: one per class, or None.
        takes_pixels: whether the input is pixels 0..255, which is written as
            normalisation with mean 0 and standard deviation 1.
        own: what `read_about` gives back.
    """
    file = TFLiteFile(content)
    tables = _metadata(file, name, labels is not None, takes_pixels)
    file.add_metadata(_METADATA_NAME, tables)
    file.add_metadata(_OWN_NAME, json.dumps(own, sort_keys=True).encode())
    result = file.content()
    return result if labels is None else result + _archive(labels, len(result))


@dataclasses.dataclass(frozen=True)
class About:
    """What the package has written about a file, and nothing for other files.

    Attributes:
        takes_pixels: whether the input is pixels 0..255, or None.
        output: `"probabilities"` or `"logits"`, or None.
        transform: `crop_fraction`, `interpolation` and `squash` of the
            `EvaluationTransform`, those that are given.
    """

    takes_pixels: bool | None = None
    output: str | None = None
    transform: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_about(metadata: dict[str, memoryview]) -> About:
    """What `add_metadata` was given as `own`.

    Args:
        metadata: the file's named entries.

    Raises:
        ValueError: if it is something that `add_metadata` would not write.
    """
    data = metadata.get(_OWN_NAME)
    if data is None:
        return About()
    if len(data) > _MOST_METADATA:
        raise ValueError(f"{len(data)} bytes of metadata")
    own = json.loads(bytes(data))
    if not isinstance(own, dict):
        raise ValueError(f"metadata of type {type(own).__name__}")
    about = About(own.get("takes_pixels"), own.get("output"), own.get("transform", {}))
    if about.takes_pixels not in (None, True, False):
        raise ValueError(f"takes_pixels={about.takes_pixels!r:.80}")
    if about.output not in (None, "probabilities", "logits"):
        raise ValueError(f"output={about.output!r:.80}")
    check_transform(about.transform)
    return about


def check_transform(transform: Any) -> None:
    """Raise a `ValueError` unless these are settings of an `EvaluationTransform`."""
    if not isinstance(transform, dict) or not transform.keys() <= _SETTINGS.keys():
        raise ValueError(
            f"`transform` must be a dict of {', '.join(_SETTINGS)}. "
            f"Received: transform={transform!r:.200}"
        )
    for name, value in transform.items():
        if not isinstance(value, _SETTINGS[name][0]):
            raise ValueError(
                f"`{name}` of `transform` must be {_SETTINGS[name][1]}. "
                f"Received: {name}={value!r:.80}"
            )
    # A crop of a small part is cut out of an image made very large.
    if not _LEAST_CROP <= transform.get("crop_fraction", 1.0) <= 1:
        raise ValueError(
            f"`crop_fraction` is from {_LEAST_CROP} to 1. "
            f"Received: crop_fraction={transform['crop_fraction']!r}"
        )


def read_labels(content: bytes, classes: int) -> list[str] | None:
    """The labels in the file, or None.

    Args:
        content: the file's bytes.
        classes: how many labels there must be.

    Raises:
        ValueError: if there is another number of them, or they are compressed by other
            means than deflate, or are far larger than the file.
    """
    # Labels that honest files have, with what a zip archive adds. No more is read, so
    # that an archive of many empty files costs no more either.
    most = len(content) // 4 + (1 << 16)
    stream = io.BytesIO(content[-most - (1 << 16) :])
    if not zipfile.is_zipfile(stream):
        return None
    with zipfile.ZipFile(stream) as archive:
        names = [name for name in archive.namelist() if name.endswith(".txt")]
        if not names:
            return None
        chosen = LABELS_FILE if LABELS_FILE in names else names[0]
        entry = archive.getinfo(chosen)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"labels in compression {entry.compress_type}")
        with archive.open(entry) as file:
            data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"labels of more than {most} bytes")
    # Lines end in a line feed, or in a carriage return before it, and nowhere else: a
    # label may hold what Unicode has for the ends of lines and pages.
    data = data.replace(b"\r\n", b"\n").removesuffix(b"\n")
    lines = data.count(b"\n") + 1
    if lines != classes:
        raise ValueError(
            f"Expected a label for each of the {classes} classes. "
            f"Received: {lines} labels"
        )
    return data.decode("utf-8").split("\n")


def _archive(labels: Sequence[str], position: int) -> bytes:
    """A zip archive whose offsets count from the start of the model's bytes."""
    buffer = io.BytesIO()
    buffer.write(b"\0" * position)
    with zipfile.ZipFile(buffer, "a") as archive:
        # A fixed date: the same model gives the same bytes.
        entry = zipfile.ZipInfo(LABELS_FILE, (1980, 1, 1, 0, 0, 0))
        archive.writestr(entry, "\n".join(labels) + "\n")
    return buffer.getvalue()[position:]


def _metadata(
    file: TFLiteFile, name: str, with_labels: bool, takes_pixels: bool
) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(0)

    def table(**fields: Any) -> int:
        """A table from `slot_N=(kind, value)`; offsets come built."""
        builder.StartObject(8)
        for slot, (kind, value) in fields.items():
            add = getattr(builder, f"Prepend{kind}Slot")
            add(int(slot.removeprefix("slot_")), value, 0)
        return builder.EndObject()

    def offset(value: int) -> tuple[str, int]:
        return "UOffsetTRelative", value

    def text(value: str) -> tuple[str, int]:
        return offset(builder.CreateString(value))

    def vector(items: list[int]) -> tuple[str, int]:
        builder.StartVector(4, len(items), 4)
        for item in reversed(items):
            builder.PrependUOffsetTRelative(item)
        return offset(builder.EndVector())

    def floats(value: float) -> tuple[str, int]:
        builder.StartVector(4, 1, 4)
        builder.PrependFloat32(value)
        return offset(builder.EndVector())

    def content(kind: int, properties: int) -> tuple[str, int]:
        return offset(table(slot_0=("Uint8", kind), slot_1=offset(properties)))

    image_fields = {
        "slot_0": text("image"),
        "slot_1": text("RGB image"),
        "slot_3": content(_IMAGE_PROPERTIES, table(slot_0=("Int8", _RGB))),
    }
    if takes_pixels:
        normalization = table(slot_0=floats(0.0), slot_1=floats(1.0))
        unit = table(
            slot_0=("Uint8", _NORMALIZATION_OPTIONS), slot_1=offset(normalization)
        )
        image_fields["slot_4"] = vector([unit])
        lowest, highest = floats(0.0), floats(255.0)
        image_fields["slot_5"] = offset(table(slot_0=highest, slot_1=lowest))
    image = table(**image_fields)
    output_fields = {
        "slot_0": text(_tensor_name(file)),
        "slot_3": content(_FEATURE_PROPERTIES, table()),
    }
    if with_labels:
        labels = table(slot_0=text(LABELS_FILE), slot_2=("Int8", _AXIS_LABELS))
        output_fields["slot_6"] = vector([labels])
    output = table(**output_fields)
    graph = table(slot_2=vector([image]), slot_3=vector([output]))
    model = table(slot_0=text(name), slot_3=vector([graph]), slot_7=text("1.0.0"))
    builder.Finish(model, file_identifier=b"M001")
    return bytes(builder.Output())


def _tensor_name(file: TFLiteFile) -> str:
    name = file.graph.tensors[file.graph.outputs[0]].name
    return name.decode() if isinstance(name, bytes) else name
