"""The namings of published checkpoints: from our layers' paths to their modules.

Each naming is a table of rules. A rule is a regular expression for the path of a layer
(see `structure.WeightSlot`) and a template for the reference's module; the last part of
the key follows from the weight's own name. The first rule that matches counts.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping

from keras_metaformer.weights.structure import WeightSlot

#: Keras' name of a weight to PyTorch's; other names are the same in both.
_PYTORCH_NAMES = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_NEVER = r"(?!)"


def _as_named(path: str, roots: Collection[str]) -> str:
    return path


def _downsampling_counts(path: str, roots: Collection[str]) -> str:
    """A stage's downsampling is its first block."""
    return re.sub(
        r"^(stage_[1-9]\d*_block_)(\d+)",
        lambda match: f"{match[1]}{int(match[2]) + 1}",
        path,
    )


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a source keeps a weight.

    Attributes:
        key: in its state dict.
        as_convolution: whether a dense kernel is stored as a 1x1 convolution's.
    """

    key: str
    as_convolution: bool = False


@dataclasses.dataclass(frozen=True)
class Naming:
    """How one source names the weights in its state dict.

    Attributes:
        name: the source, as in the checkpoint catalogue.
        rules: `(layer path pattern, module template)` in order of precedence. A
            template that ends in `!` is the whole key: the source holds that weight as
            a bare parameter.
        convolutions: pattern of the paths of dense layers that the source stores as 1x1
            convolutions.
        linear_beside_attention: whether that leaves out blocks with self-attention.
        transposed: whether kernels are in PyTorch's order of axes (output first).
        names: Keras' name of a weight to the source's.
        separator: between module and weight in a key.
        known_as: from a layer's path, and the names of all layers, to the path that the
            rules are for: where a source counts otherwise.
        vectors: `(key pattern, shape)` of per-channel weights that the source keeps
            with unit axes.
        ignored: pattern of keys that carry no weight, such as counters.
    """

    name: str
    rules: tuple[tuple[str, str], ...]
    convolutions: str = _NEVER
    linear_beside_attention: bool = False
    transposed: bool = True
    names: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: dict(_PYTORCH_NAMES)
    )
    separator: str = "."
    known_as: Callable[[str, Collection[str]], str] = _as_named
    vectors: tuple[tuple[str, tuple[int, ...]], ...] = ()
    ignored: str = _NEVER

    def entries(self, slots: Mapping[str, WeightSlot]) -> dict[str, Entry | None]:
        """For each path where the source keeps that weight; None if it cannot."""
        roots = {path.split("/")[0] for path in slots}
        attention = {path.split("/")[0] for path in slots if "/qkv/" in path}
        entries = {}
        for path in slots:
            root = path.split("/")[0]
            # The classifier's key depends on the kind of head that it ends.
            mlp_head = "head_expand" in roots and root == "predictions"
            known_as = self.known_as(f"head_{path}" if mlp_head else path, roots)
            linear = self.linear_beside_attention and root in attention
            entries[path] = self._entry(known_as, linear)
        return entries

    def _entry(self, path: str, linear: bool) -> Entry | None:
        layer_path, _, weight = path.rpartition("/")
        for pattern, template in self.rules:
            match = re.fullmatch(pattern, layer_path)
            if match is None:
                continue
            module = match.expand(template)
            convolution = re.fullmatch(self.convolutions, layer_path) is not None
            if module.endswith("!"):
                return Entry(module[:-1])
            name = self.names.get(weight, weight)
            return Entry(module + self.separator + name, convolution and not linear)
        return None


_BLOCK = r"stage_(\d+)_block_(\d+)"
_MIXER = _BLOCK + "/token_mixing/transform"
_MLP = _BLOCK + "/channel_mixing/transform"


def _block_rules(prefix: str) -> tuple[tuple[str, str], ...]:
    """The blocks of sail-sg/metaformer, which timm names alike below `prefix`."""
    return (
        (_BLOCK + "/token_mixing/norm", prefix + ".norm1"),
        (_BLOCK + "/channel_mixing/norm", prefix + ".norm2"),
        (_BLOCK + "/token_mixing/residual_scale", prefix + ".res_scale1"),
        (_BLOCK + "/channel_mixing/residual_scale", prefix + ".res_scale2"),
        (_BLOCK + "/token_mixing/layer_scale", prefix + ".layer_scale1"),
        (_BLOCK + "/channel_mixing/layer_scale", prefix + ".layer_scale2"),
        (_MIXER + "/expand", prefix + ".token_mixer.pwconv1"),
        (_MIXER + "/activation", prefix + ".token_mixer.act1"),
        (_MIXER + "/depthwise", prefix + ".token_mixer.dwconv"),
        (_MIXER + "/output_activation", prefix + ".token_mixer.act2"),
        (_MIXER + "/project", prefix + ".token_mixer.pwconv2"),
        (_MIXER + "/qkv", prefix + ".token_mixer.qkv"),
        (_MIXER + "/output_projection", prefix + ".token_mixer.proj"),
        (_MIXER, prefix + ".token_mixer"),
        (_MLP + "/expand", prefix + ".mlp.fc1"),
        (_MLP + "/activation", prefix + ".mlp.act"),
        (_MLP + "/project", prefix + ".mlp.fc2"),
    )


SAIL_METAFORMER = Naming(
    name="sail-sg/metaformer",
    rules=(
        ("stem/convolution", "downsample_layers.0.conv"),
        ("stem/post_norm", "downsample_layers.0.post_norm"),
        (r"stage_(\d+)_downsampling/convolution", r"downsample_layers.\1.conv"),
        (r"stage_(\d+)_downsampling/pre_norm", r"downsample_layers.\1.pre_norm"),
        *_block_rules(r"stages.\1.\2"),
        ("output_norm", "norm"),
        ("predictions", "head"),
        ("head_expand", "head.fc1"),
        ("head_norm", "head.norm"),
        ("head_predictions", "head.fc2"),
    ),
)


def _in_one_list(path: str, roots: Collection[str]) -> str:
    """Stages, what is between them and positions are one list in the official code."""
    root, _, rest = path.partition("/")
    match = re.fullmatch(
        r"stage_(\d+)_(downsampling|position_embedding|block_\d+)", root
    )
    if match is None:
        return path
    stage, kind = int(match[1]), match[2]
    last = stage + 1 if kind.startswith("block") else stage
    positions = sum(f"stage_{each}_position_embedding" in roots for each in range(last))
    index = 2 * stage - (kind == "downsampling") + positions
    return f"network_{index}_{kind}/{rest}"


_IN_LIST = r"network_(\d+)"
_LISTED_BLOCK = _IN_LIST + r"_block_(\d+)"
_LISTED_MIXER = _LISTED_BLOCK + "/token_mixing/transform"

SAIL_POOLFORMER = Naming(
    name="sail-sg/poolformer",
    rules=(
        ("stem/convolution", "patch_embed.proj"),
        (_IN_LIST + "_downsampling/convolution", r"network.\1.proj"),
        (_IN_LIST + "_position_embedding", r"network.\1.pos_embed!"),
        (_LISTED_BLOCK + "/token_mixing/norm", r"network.\1.\2.norm1"),
        (_LISTED_BLOCK + "/channel_mixing/norm", r"network.\1.\2.norm2"),
        (_LISTED_BLOCK + "/token_mixing/layer_scale", r"network.\1.\2.layer_scale_1!"),
        (
            _LISTED_BLOCK + "/channel_mixing/layer_scale",
            r"network.\1.\2.layer_scale_2!",
        ),
        (_LISTED_MIXER + "/qkv", r"network.\1.\2.token_mixer.qkv"),
        (_LISTED_MIXER + "/output_projection", r"network.\1.\2.token_mixer.proj"),
        (_LISTED_MIXER + "/linear", r"network.\1.\2.token_mixer.fc"),
        (
            _LISTED_BLOCK + "/channel_mixing/transform/expand",
            r"network.\1.\2.mlp.fc1",
        ),
        (
            _LISTED_BLOCK + "/channel_mixing/transform/project",
            r"network.\1.\2.mlp.fc2",
        ),
        ("output_norm", "norm"),
        ("predictions", "head"),
    ),
    convolutions=r".*/channel_mixing/transform/.*",
    known_as=_in_one_list,
)

TIMM_METAFORMER = Naming(
    name="timm",
    rules=(
        ("stem/convolution", "stem.conv"),
        ("stem/post_norm", "stem.norm"),
        (r"stage_(\d+)_downsampling/convolution", r"stages.\1.downsample.conv"),
        (r"stage_(\d+)_downsampling/pre_norm", r"stages.\1.downsample.norm"),
        *_block_rules(r"stages.\1.blocks.\2"),
        ("output_norm", "head.norm"),
        ("predictions", "head.fc"),
        ("head_expand", "head.fc.fc1"),
        ("head_norm", "head.fc.norm"),
        ("head_predictions", "head.fc.fc2"),
    ),
    # Blocks with attention work on tokens in timm, the others on maps.
    convolutions=r"stage_\d+_block_\d+/.*",
    linear_beside_attention=True,
)

# ResMLP's Affine calls its scale alpha and its offset beta.
_AFFINE_NAMES = {**_PYTORCH_NAMES, "scale": "alpha", "offset": "beta"}
_TOKENS = r"block_(\d+)/token_mixing"
_CHANNELS = r"block_(\d+)/channel_mixing"

TIMM_ISOTROPIC = Naming(
    name="timm",
    rules=(
        ("patch_embedding/convolution", "stem.proj"),
        (_TOKENS + "/norm", r"blocks.\1.norm1"),
        (_CHANNELS + "/norm", r"blocks.\1.norm2"),
        (_TOKENS + "/layer_scale", r"blocks.\1.ls1!"),
        (_CHANNELS + "/layer_scale", r"blocks.\1.ls2!"),
        (_TOKENS + "/transform/expand", r"blocks.\1.mlp_tokens.fc1"),
        (_TOKENS + "/transform/project", r"blocks.\1.mlp_tokens.fc2"),
        (_TOKENS + "/transform/linear", r"blocks.\1.linear_tokens"),
        (_CHANNELS + "/transform/expand", r"blocks.\1.mlp_channels.fc1"),
        (_CHANNELS + "/transform/project", r"blocks.\1.mlp_channels.fc2"),
        (r"block_(\d+)/norm", r"blocks.\1.norm"),
        (r"block_(\d+)/transform/expand", r"blocks.\1.mlp_channels.fc1"),
        (r"block_(\d+)/transform/gate/norm", r"blocks.\1.mlp_channels.gate.norm"),
        (
            r"block_(\d+)/transform/gate/projection",
            r"blocks.\1.mlp_channels.gate.proj",
        ),
        (r"block_(\d+)/transform/project", r"blocks.\1.mlp_channels.fc2"),
        ("output_norm", "norm"),
        ("predictions", "head"),
    ),
    names=_AFFINE_NAMES,
    vectors=((r".*norm\d?\.(alpha|beta)", (1, 1, -1)),),
)

DEIT_RESMLP = Naming(
    name="facebookresearch/deit",
    rules=(
        ("patch_embedding/convolution", "patch_embed.proj"),
        (_TOKENS + "/norm", r"blocks.\1.norm1"),
        (_CHANNELS + "/norm", r"blocks.\1.norm2"),
        (_TOKENS + "/layer_scale", r"blocks.\1.gamma_1!"),
        (_CHANNELS + "/layer_scale", r"blocks.\1.gamma_2!"),
        (_TOKENS + "/transform/linear", r"blocks.\1.attn"),
        (_CHANNELS + "/transform/expand", r"blocks.\1.mlp.fc1"),
        (_CHANNELS + "/transform/project", r"blocks.\1.mlp.fc2"),
        ("output_norm", "norm"),
        ("predictions", "head"),
    ),
    names=_AFFINE_NAMES,
)

GOOGLE_MIXER = Naming(
    name="google-research/vision_transformer",
    rules=(
        ("patch_embedding/convolution", "stem"),
        (_TOKENS + "/norm", r"MixerBlock_\1/LayerNorm_0"),
        (_CHANNELS + "/norm", r"MixerBlock_\1/LayerNorm_1"),
        (_TOKENS + "/transform/expand", r"MixerBlock_\1/token_mixing/Dense_0"),
        (_TOKENS + "/transform/project", r"MixerBlock_\1/token_mixing/Dense_1"),
        (_CHANNELS + "/transform/expand", r"MixerBlock_\1/channel_mixing/Dense_0"),
        (_CHANNELS + "/transform/project", r"MixerBlock_\1/channel_mixing/Dense_1"),
        ("output_norm", "pre_head_layer_norm"),
        ("predictions", "head"),
    ),
    # Flax keeps kernels as Keras does.
    transposed=False,
    names={"gamma": "scale", "beta": "bias"},
    separator="/",
)


def _ffnet_rules() -> tuple[tuple[str, str], ...]:
    rules = []
    for index in range(2):
        # An activation stands between the two convolutions of the official stem.
        rules += [
            (f"stem_{index}/convolution", f"patch_embed.{2 * index}.c"),
            (f"stem_{index}/post_norm", f"patch_embed.{2 * index}.bn"),
        ]
    merging = r"stage_(\d+)_downsampling"
    rules += [
        (merging + "/depthwise/large/linear", r"stages.\1.0.proj.0.conv.c"),
        (merging + "/depthwise/large/norm", r"stages.\1.0.proj.0.conv.bn"),
        (merging + "/depthwise/small/linear", r"stages.\1.0.proj.0.conv1.c"),
        (merging + "/depthwise/small/norm", r"stages.\1.0.proj.0.conv1.bn"),
        (merging + "/projection/norm", r"stages.\1.0.proj.1.conv.bn"),
        (merging + "/projection/linear", r"stages.\1.0.proj.1.conv.c"),
    ]
    tokens = _BLOCK + "/token_mixing"
    channels = _BLOCK + "/channel_mixing"
    token_target = r"stages.\1.\2.token_mixer.0"
    channel_target = r"stages.\1.\2.channel_mixer"
    rules += [
        (tokens + "/layer_scale", token_target + ".layer_scale!"),
        (channels + "/layer_scale", channel_target + ".layer_scale!"),
        (channels + "/transform/interaction", channel_target + ".main.fc1"),
        (channels + "/transform/aggregation", channel_target + ".main.fc2"),
    ]
    for source, target in (
        (tokens + "/transform/query", token_target + ".main.fc"),
        (tokens + "/transform/interaction", token_target + ".main.conv1"),
        (tokens + "/transform/aggregation", token_target + ".main.conv2"),
        (channels + "/transform/query", channel_target + ".main.conv"),
    ):
        rules += [
            (source, target),
            (source + "/linear", target + ".c"),
            (source + "/norm", target + ".bn"),
            (source + "/large/linear", target + ".conv.c"),
            (source + "/large/norm", target + ".conv.bn"),
            (source + "/small/linear", target + ".conv1.c"),
            (source + "/small/norm", target + ".conv1.bn"),
        ]
    return (*rules, ("output_norm", "norm"), ("predictions", "head"))


FFNET = Naming(
    name="ysj9909/FFNet",
    rules=_ffnet_rules(),
    convolutions=r"stage_.*",
    vectors=((r".*\.layer_scale", (-1, 1, 1)),),
    known_as=_downsampling_counts,
    ignored=r".*\.num_batches_tracked",
)

# Where several fit, the first counts: PoolFormer's weights also have names in
# sail-sg/metaformer, but the other models' have none in sail-sg/poolformer.
NAMINGS = (
    SAIL_POOLFORMER,
    SAIL_METAFORMER,
    TIMM_METAFORMER,
    GOOGLE_MIXER,
    DEIT_RESMLP,
    TIMM_ISOTROPIC,
    FFNET,
)
