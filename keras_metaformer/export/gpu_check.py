"""Compiles and runs a model on LiteRT's GPU accelerator, in a process of its own.

Runs as `python -P gpu_check.py FILE`, because drivers crash and hang; prints one line
of JSON, last. Imports nothing of the package.
"""

import json
import sys


def main(path: str) -> None:
    """Compile the file for the GPU and say what came of it."""
    import numpy as np
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.interpreter import Interpreter

    model = CompiledModel.from_file(path, HardwareAccelerator.GPU)
    whole = model.is_fully_accelerated()
    reference = Interpreter(model_path=path)
    reference.allocate_tensors()
    (image,), (output,) = (
        reference.get_input_details(),
        reference.get_output_details(),
    )
    pixels = np.random.default_rng(0).uniform(0, 255, image["shape"])
    pixels = pixels.astype(image["dtype"])
    reference.set_tensor(image["index"], pixels)
    reference.invoke()
    expected = reference.get_tensor(output["index"])
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    inputs[0].write(pixels)
    model.run_by_index(0, inputs, outputs)
    result = np.asarray(outputs[0].read(expected.size, expected.dtype))
    difference = np.abs(result - expected.ravel()).max() / np.abs(expected).max()
    print(json.dumps({"whole": bool(whole), "difference": float(difference)}))


if __name__ == "__main__":
    main(sys.argv[1])
