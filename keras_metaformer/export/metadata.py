"""Labels and normalisation inside a TFLite file, as MediaPipe reads them.

The layout is TensorFlow Lite's metadata schema: a flatbuffer `M001` in the buffer
`TFLITE_METADATA`, and the labels as a file in a zip archive after the model's bytes.
Written by hand because the official writers do not import on current Python versions.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

from keras_metaformer.export.flatbuffer import TFLiteFile

LABELS_FILE = "labels.txt"
_METADATA_NAME = "TFLITE_METADATA"
#: This package's own entry: what MediaPipe's schema has no words for.
_OWN_NAME = "keras_metaformer"

# Numbers of the schema's unions and enums.
_IMAGE_PROPERTIES, _FEATURE_PROPERTIES = 2, 1
_NORMALIZATION_OPTIONS = 1
_RGB = 1
_AXIS_LABELS = 2


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
        own: what `read_metadata` gives back.
    """
    file = TFLiteFile(content)
    tables = _metadata(file, name, labels is not None, takes_pixels)
    file.add_metadata(_METADATA_NAME, tables)
    file.add_metadata(_OWN_NAME, json.dumps(own, sort_keys=True).encode())
    result = file.content()
    return result if labels is None else result + _archive(labels, len(result))


def read_metadata(content: bytes) -> dict[str, Any]:
    """What `add_metadata` was given as `own`, or an empty dict for other files."""
    data = TFLiteFile(content).metadata(_OWN_NAME)
    return {} if data is None else json.loads(data)


def read_labels(content: bytes) -> list[str] | None:
    """The labels in the file, or None.

    A damaged archive raises what `zipfile` or the decoding raises.
    """
    stream = io.BytesIO(content)
    if not zipfile.is_zipfile(stream):
        return None
    with zipfile.ZipFile(stream) as archive:
        names = [name for name in archive.namelist() if name.endswith(".txt")]
        if not names:
            return None
        chosen = LABELS_FILE if LABELS_FILE in names else names[0]
        return archive.read(chosen).decode("utf-8").splitlines()


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
