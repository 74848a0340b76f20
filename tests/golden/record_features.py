"""Records timm's features for `features.npz`; runs where timm is (`make peers`).

    .venv-peers/bin/python -m tests.golden.record_features

For one model of each family that timm has: the maps of `forward_intermediates`, the
normalised ones too where timm has such, and the embedding of `num_classes=0`. Weights
and images are those of `seeded.py`; all is computed in float64. Of the channels every
fourth is kept.
"""

from pathlib import Path

import numpy as np

from tests.golden.seeded import seeded_images, seeded_state_dict

SIZE, SEED = 64, 1
#: For each constructor timm's name of the model, and the blocks or stages taken.
MODELS = {
    "PoolFormerS12": ("poolformer_s12", (0, 1, 2, 3)),
    "PoolFormerV2S12": ("poolformerv2_s12", (0, 1, 2, 3)),
    "ConvFormerS18": ("convformer_s18", (0, 1, 2, 3)),
    "CAFormerS18": ("caformer_s18", (0, 1, 2, 3)),
    "MLPMixerS32": ("mixer_s32_224", (0, 3, 7)),
    "ResMLP12": ("resmlp_12_224", (0, 5, 11)),
    "GMLPTi16": ("gmlp_ti16_224", (0, 14, 29)),
}


def main() -> None:
    import timm  # pyright: ignore[reportMissingImports]: in the peers' environment
    import torch

    arrays = {}
    images = torch.from_numpy(seeded_images(2, SIZE, SIZE, SEED)).double()
    images = images.permute(0, 3, 1, 2)
    for constructor, (name, indices) in MODELS.items():
        tied = name.endswith("_224")
        model = timm.create_model(name, **({"img_size": SIZE} if tied else {}))
        entries = [
            (key, tuple(value.shape), str(value.dtype).removeprefix("torch."))
            for key, value in model.state_dict().items()
        ]
        state_dict = seeded_state_dict(entries, SEED)
        model.load_state_dict(
            {key: torch.from_numpy(value) for key, value in state_dict.items()}
        )
        model = model.double().eval()
        with torch.inference_mode():
            maps = model.forward_intermediates(
                images, indices=list(indices), intermediates_only=True
            )
            found = {
                str(index): features.permute(0, 2, 3, 1)
                for index, features in zip(indices, maps, strict=True)
            }
            if tied:
                found["normalised"] = model.forward_intermediates(
                    images, indices=[indices[-1]], norm=True, intermediates_only=True
                )[0].permute(0, 2, 3, 1)
            model.reset_classifier(0)
            found["embedding"] = model(images)
        for key, value in found.items():
            arrays[f"{constructor}/{key}"] = value[..., ::4].numpy().astype("float32")
    np.savez_compressed(Path(__file__).with_name("features.npz"), **arrays)


if __name__ == "__main__":
    main()
