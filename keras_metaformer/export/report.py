"""What an exported file is and does, measured on the file itself."""

import dataclasses
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from keras_metaformer.export.flatbuffer import TFLiteFile
from keras_metaformer.processes import run_python

FLOAT16_MAXIMUM = 65504.0
_GPU_CHECK = Path(__file__).with_name("gpu_check.py")
_GPU_TIMEOUT_SECONDS = 300
_MAXIMAL_RANK = 4


@dataclasses.dataclass
class ExportReport:
    """What `to_litert` found out about the file it wrote.

    Attributes:
        path: of the file.
        quantize: None, `"float16"`, `"dynamic"` or `"int8"`.
        input: name, shape and type of the input.
        output: name and shape of the output.
        size_bytes: of the file.
        operators: how many of each kind.
        maximal_rank: axes of the tensor that has most; GPU delegates take 4.
        xnnpack_partitions: pieces in which XNNPACK runs the graph on the CPU.
        outside_xnnpack: operators that XNNPACK leaves to TFLite's own code.
        gpu: what the GPU accelerator said, or why it was not asked.
        gpu_obstacles: what GPU delegates are known to refuse, found in the graph.
        images: how many images the file was compared with Keras on, and which.
        maximal_difference: largest difference from Keras.
        relative_difference: the same, divided by Keras' largest output.
        tolerance: what `relative_difference` may be.
        top1_agreement: part of the images with the same first class.
        largest_activation: absolute value, over all tensors of the float32 graph.
        float16_headroom: how many times larger it could be in float16.
        latency_milliseconds: median by number of threads; only ratios of one run mean
            something on a busy machine.
    """

    path: str
    quantize: str | None
    input: dict[str, Any]
    output: dict[str, Any]
    size_bytes: int
    operators: dict[str, int]
    maximal_rank: int
    xnnpack_partitions: int
    outside_xnnpack: list[str]
    gpu: str
    gpu_obstacles: list[str]
    images: str
    maximal_difference: float
    relative_difference: float
    tolerance: float
    top1_agreement: float
    largest_activation: float
    float16_headroom: float
    latency_milliseconds: dict[int, float]

    @property
    def exact(self) -> bool:
        """Whether the file agrees with Keras within the tolerance."""
        return bool(self.relative_difference <= self.tolerance)

    def to_json(self) -> str:
        """The report as JSON, with `exact`."""
        return json.dumps({**dataclasses.asdict(self), "exact": self.exact}, indent=2)

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=f"{self.path} ({self.quantize or 'float32'})", min_width=60)
        table.add_column("")
        table.add_column("", overflow="fold")
        for name, value in self._rows():
            table.add_row(name, value)
        return table

    def _rows(self) -> list[tuple[str, str]]:
        operators = ", ".join(
            f"{name} {count}" for name, count in self.operators.items()
        )
        outside = ", ".join(self.outside_xnnpack) or "nothing"
        latency = ", ".join(
            f"{threads} thread{'s' * (threads > 1)} {value:.1f} ms"
            for threads, value in self.latency_milliseconds.items()
        )
        verdict = "within" if self.exact else "OUTSIDE"
        return [
            (
                "input",
                f"{self.input['name']} {self.input['shape']} {self.input['dtype']}",
            ),
            ("output", f"{self.output['name']} {self.output['shape']}"),
            ("size", f"{self.size_bytes / 1e6:.1f} MB"),
            ("operators", operators),
            ("maximal rank", str(self.maximal_rank)),
            ("XNNPACK", f"{self.xnnpack_partitions} partition(s), outside: {outside}"),
            ("GPU", "; ".join([self.gpu, *self.gpu_obstacles])),
            ("compared on", self.images),
            (
                "difference from Keras",
                f"{self.maximal_difference:.2g}, {self.relative_difference:.2g} of the "
                f"largest output, {verdict} {self.tolerance:g}",
            ),
            ("same first class", f"{self.top1_agreement:.1%}"),
            (
                "largest activation",
                f"{self.largest_activation:.4g}, float16 headroom "
                f"{self.float16_headroom:.0f}x",
            ),
            ("latency", latency),
        ]


def gpu_verdict(path: Path) -> str:
    """What LiteRT's GPU accelerator says of the file, or why it was not asked."""
    if not _has_vulkan():
        return "not tested: no Vulkan driver found (VK_ICD_FILENAMES names none)"
    try:
        child = run_python(
            _GPU_CHECK,  # by its path: the child need not find the package
            path,
            env={**os.environ, "LD_LIBRARY_PATH": _library_path()},
            timeout=_GPU_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"not tested: no answer within {_GPU_TIMEOUT_SECONDS} s"
    if child.returncode:
        if "Couldn't load Vulkan" in child.stderr or "No adapters" in child.stderr:
            return "not tested: the Vulkan driver cannot be loaded"
        reasons = [
            line
            for line in child.stderr.splitlines()
            if re.search("not supported", line)
        ]
        lines = reasons or child.stderr.strip().splitlines()[-1:]
        return "refused: " + "; ".join(dict.fromkeys(lines))[:500]
    answer = json.loads(child.stdout.strip().splitlines()[-1])
    whole = "compiled whole" if answer["whole"] else "compiled in part"
    return f"{whole}, relative difference from the CPU {answer['difference']:.1g}"


def _has_vulkan() -> bool:
    named = os.environ.get("VK_ICD_FILENAMES") or os.environ.get("VK_DRIVER_FILES")
    if named:
        return any(Path(name).exists() for name in named.split(os.pathsep))
    folders = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d")
    return any(list(Path(folder).glob("*.json")) for folder in folders)


def _library_path() -> str:
    """Where libraries are looked for: beside a named driver too.

    Chromium's SwiftShader lies beside Chromium's own libvulkan.
    """
    named = os.environ.get("VK_ICD_FILENAMES") or os.environ.get("VK_DRIVER_FILES", "")
    folders = [str(Path(name).parent) for name in named.split(os.pathsep) if name]
    before = os.environ.get("LD_LIBRARY_PATH", "")
    return os.pathsep.join([part for part in (before, *folders) if part])


def gpu_obstacles(file: TFLiteFile) -> list[str]:
    """What in a graph is known to throw operators off GPU delegates."""
    found = []
    if file.maximal_rank() > _MAXIMAL_RANK:
        found.append(f"tensors of rank {file.maximal_rank()}")
    if file.shrinking_slices():
        found.append(f"{file.shrinking_slices()} STRIDED_SLICE with shrink masks")
    if file.has_dynamic_shape():
        found.append("dynamic shapes")
    return found


def xnnpack_partitions(content: bytes) -> tuple[int, list[str]]:
    """The number of XNNPACK partitions, and the operators outside them.

    The count of partitions is what a phone runs as single pieces.
    """
    interpreter = _interpreter(content, 1)
    rows = interpreter._get_ops_details()
    partitions = [row for row in rows if row["op_name"] == "DELEGATE"]
    # A delegate's row reads and writes the tensors at the borders of its partition.
    graph = TFLiteFile(content).graph
    outside = _outside(graph, partitions, rows)
    return len(partitions), outside


def _outside(graph: Any, partitions: list[dict], rows: list[dict]) -> list[str]:
    """Operators that no partition covers, by walking back from partitions' outputs."""
    producers = {
        int(index): number
        for number, row in enumerate(rows)
        if row["op_name"] != "DELEGATE"
        for index in row["outputs"]
    }
    covered: set[int] = set()
    for partition in partitions:
        inputs = set(map(int, partition["inputs"]))
        open_tensors = [int(index) for index in partition["outputs"]]
        while open_tensors:
            index = open_tensors.pop()
            number = producers.get(index)
            if index in inputs or number is None or number in covered:
                continue
            covered.add(number)
            open_tensors.extend(map(int, rows[number]["inputs"]))
    return sorted(
        row["op_name"]
        for number, row in enumerate(rows)
        if row["op_name"] != "DELEGATE" and number not in covered
    )


def run_file(content: bytes, images: np.ndarray) -> np.ndarray:
    """The file's output for each of the images, which have the input's type."""
    interpreter = _interpreter(content, 1)
    (image,), (output,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    results = []
    for pixels in images:
        interpreter.set_tensor(image["index"], pixels[None].astype(image["dtype"]))
        interpreter.invoke()
        results.append(interpreter.get_tensor(output["index"])[0].copy())
    return np.stack(results)


def largest_activation(content: bytes, images: np.ndarray) -> float:
    """The largest absolute value of any float tensor that is no weight."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(
        model_content=content,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=resolver,
    )
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    computed = {
        int(index) for row in interpreter._get_ops_details() for index in row["outputs"]
    }
    largest = 0.0
    for pixels in images:
        interpreter.set_tensor(image["index"], pixels[None].astype(image["dtype"]))
        interpreter.invoke()
        for detail in interpreter.get_tensor_details():
            if detail["index"] in computed and detail["dtype"] == np.float32:
                tensor = interpreter.get_tensor(detail["index"])
                largest = max(largest, float(np.abs(tensor).max(initial=0.0)))
    return largest


def latency(content: bytes, images: np.ndarray, runs: int) -> dict[int, float]:
    """Median milliseconds on 1 and 2 threads, the two taking turns."""
    interpreters = {threads: _interpreter(content, threads) for threads in (1, 2)}
    times: dict[int, list[float]] = {threads: [] for threads in interpreters}
    for _ in range(runs + 1):  # The first run warms up.
        for threads, interpreter in interpreters.items():
            (image,) = interpreter.get_input_details()
            pixels = images[:1].astype(image["dtype"])
            interpreter.set_tensor(image["index"], pixels)
            start = time.perf_counter()
            interpreter.invoke()
            times[threads].append(1e3 * (time.perf_counter() - start))
    return {threads: float(np.median(each[1:])) for threads, each in times.items()}


def _interpreter(content: bytes, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter
