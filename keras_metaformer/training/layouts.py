"""How the weights of a large model lie on several devices, with JAX."""

import re
from collections.abc import Sequence

import keras

#: Where weights are cut, by what their paths end in: a kernel that widens channels by
#: its columns, the one that narrows them again by its rows, and what lies between by
#: its channels. Between the two no device needs what another has, and after them XLA
#: puts one sum over the devices. The rest is on each.
_CUT = {
    r"/(expand|qkv)/kernel$": (None, "model"),
    r"/(expand|qkv)/bias$": ("model",),
    r"/depthwise/kernel$": (None, None, "model", None),
    r"/(project|output_projection)/kernel$": ("model", None),
    r"^head_expand/kernel$": (None, "model"),
    r"^head_expand/bias$": ("model",),
    r"^predictions/kernel$": ("model", None),
}


class LargeWeightsSpread(keras.distribution.ModelParallel):
    """Keras' `ModelParallel` with the layouts of MetaFormer's blocks.

    The devices are a mesh of `batch` by `model`. A batch is divided among the rows of
    the mesh, large weights and what is computed of them among the devices of a row; so
    are an optimizer's moments. A weight whose channels the row does not divide is on
    each device.

    Args:
        devices: names, as `keras.distribution.list_devices()` gives them.
        model_parallel: int. Devices of a row.

    Raises:
        ValueError: if the devices do not make whole rows.

    Reference:
        - Megatron-LM: Training Multi-Billion Parameter Language Models Using Model
          Parallelism, https://arxiv.org/abs/1909.08053
    """

    def __init__(self, devices: Sequence[str], model_parallel: int) -> None:
        if len(devices) % model_parallel:
            raise ValueError(
                "The devices must be a multiple of those that weights are spread over. "
                f"Received: {len(devices)} devices, model_parallel={model_parallel}"
            )
        mesh = keras.distribution.DeviceMesh(
            (len(devices) // model_parallel, model_parallel),
            ("batch", "model"),
            list(devices),
        )
        super().__init__(
            layout_map=keras.distribution.LayoutMap(mesh),
            batch_dim_name="batch",
            auto_shard_dataset=False,
        )
        self._over = model_parallel

    def get_variable_layout(self, variable):
        if getattr(variable, "_layout", None) is not None:
            return super().get_variable_layout(variable)
        axes: tuple[str | None, ...] = (None,) * len(variable.shape)
        for pattern, cut in _CUT.items():
            if re.search(pattern, variable.path) and len(cut) == len(axes):
                whole = variable.shape[cut.index("model")] % self._over == 0
                axes = cut if whole else axes
        return keras.distribution.TensorLayout(axes, self.device_mesh)
