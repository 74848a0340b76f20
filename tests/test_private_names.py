"""The private names of other libraries that the package uses: they may go any day.

Each is here with where it is, so that a version without it fails a test that names it,
and so that another one cannot slip in.
"""

import ast
import os
import platform
from pathlib import Path
from typing import Any

import keras
import pytest

import keras_metaformer as km

PACKAGE = Path(km.__file__).parent
PACKAGES = (PACKAGE, PACKAGE.parent / "keras_metaformer_lite")

LAYER = {"_flatten_layers", "_inbound_nodes", "_layers", "_losses", "_remat_mode"}
MODEL = {"_clear_losses", "_nodes_by_depth", "_run_through_graph"}
TENSOR = {"_keras_history"}
BATCH_NORM = {"_moments", "_reduction_axes"}
TENSORFLOW_MODEL = {"_maybe_symbolic_build"}
OPTIMIZER = {
    "_backend_increment_gradient_accumulators",
    "_backend_update_step",
    "_get_current_learning_rate",
    "_get_variable_index",
    "_iterations",
    "_learning_rate",
    "_momentums",
    "_trainable_variables",
    "_velocities",
}
INTERPRETER = {"_get_ops_details"}
TORCH_LAYER = {
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_pre_hooks",
}
TORCH_MODULE = {
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
}
#: `torch._C._functorch.is_functorch_wrapped_tensor`, `torch.ops.mkldnn`'s product.
TORCH = {"_C", "_functorch", "_linear_pointwise"}
STANDARD_LIBRARY = {"_exit"}
#: Looked up by `getattr` or overridden, so that the scan below does not see them used.
UNSEEN = {
    "_backend_increment_gradient_accumulators",
    "_backend_update_step",
    "_clear_losses",
    "_maybe_symbolic_build",
    "_moments",
    "_run_through_graph",
    "_get_current_learning_rate",
    "_momentums",
    "_velocities",
}


def test_keras_has_them():
    model: Any = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    functional: Any = keras.Model(model.inputs[0], model.outputs[0])
    optimizer = keras.optimizers.AdamW()
    optimizer.build(functional.trainable_variables)
    for owner, names in (
        (functional.layers[-1], LAYER),
        (functional, MODEL | LAYER),
        (functional.output, TENSOR),
        (optimizer, OPTIMIZER),
        (keras.layers.BatchNormalization(), BATCH_NORM),
    ):
        missing = {name for name in names if not hasattr(owner, name)}
        assert not missing, f"{type(owner).__name__} of Keras {keras.__version__}"


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow")
def test_tensorflow_models_have_them():
    missing = {name for name in TENSORFLOW_MODEL if not hasattr(keras.Model, name)}
    assert not missing, f"keras.Model of Keras {keras.__version__}"


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="about torch")
def test_torch_has_them():
    import torch
    from torch.nn.modules import module

    for owner, names in ((torch.nn.Linear(1, 1), TORCH_LAYER), (module, TORCH_MODULE)):
        missing = {name for name in names if not hasattr(owner, name)}
        assert not missing, f"{owner} of torch {torch.__version__}"
    transforms: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    assert hasattr(transforms, "is_functorch_wrapped_tensor")
    if platform.machine() in ("x86_64", "AMD64"):  # Looked up, and done without.
        assert hasattr(torch.ops.mkldnn, "_linear_pointwise")


@pytest.mark.backend_independent
def test_the_interpreter_and_the_standard_library_have_them():
    from ai_edge_litert.interpreter import Interpreter

    assert all(hasattr(Interpreter, name) for name in INTERPRETER)
    assert all(hasattr(os, name) for name in STANDARD_LIBRARY)


@pytest.mark.backend_independent
def test_there_are_no_others():
    used, own = set(), set()
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Attribute) and not isinstance(
                    node.ctx, ast.Store
                ):
                    used.add(node.attr)
                elif isinstance(node, ast.Attribute):
                    own.add(node.attr)
                elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    own.add(node.name)
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    own.add(node.id)
                elif isinstance(node, ast.ImportFrom):
                    parts = str(node.module).split(".")
                    assert "src" not in parts, f"{path} imports {node.module}"
    private = {name for name in used - own if name.startswith("_") and name[1:2] != "_"}
    assert (
        private
        == (
            LAYER
            | MODEL
            | TENSOR
            | OPTIMIZER
            | BATCH_NORM
            | TENSORFLOW_MODEL
            | INTERPRETER
            | TORCH_LAYER
            | TORCH_MODULE
            | TORCH
            | STANDARD_LIBRARY
        )
        - UNSEEN
    )
