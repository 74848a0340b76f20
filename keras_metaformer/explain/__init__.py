"""What a model sees, and what of it decides its answers."""

from keras_metaformer.explain.activation_cost import (
    ActivationCost,
    ActivationMoments,
    activation_cost,
    activation_moments,
)
from keras_metaformer.explain.attention import (
    AttentionMaps,
    AttentionRollout,
    attention_maps,
    attention_rollout,
    has_attention,
)
from keras_metaformer.explain.attributions import (
    Attributions,
    integrated_gradients,
    occlusion,
    smooth_grad,
)
from keras_metaformer.explain.cam import CAM, grad_cam
from keras_metaformer.explain.disagreements import (
    Disagreement,
    Disagreements,
    disagreements,
)
from keras_metaformer.explain.faithfulness import Faithfulness, faithfulness
from keras_metaformer.explain.heat_maps import HeatMaps
from keras_metaformer.explain.memory import Memory, SharedKeys, memory
from keras_metaformer.explain.probe import Derivative, Probe
from keras_metaformer.explain.receptive_field import (
    ReceptiveField,
    ReceptiveFields,
    receptive_field,
    receptive_field_comparison,
)
from keras_metaformer.explain.report import Report, report
from keras_metaformer.explain.results import Result
from keras_metaformer.explain.sanity import Sanity, sanity
from keras_metaformer.explain.scales import LearnedScales, learned_scales
from keras_metaformer.explain.sparsity import Sparsity, sparsity
from keras_metaformer.explain.targets import Region, Similarity
from keras_metaformer.explain.token_matrices import (
    TokenMatrices,
    TokenPatterns,
    has_token_matrices,
    token_matrices,
)

__all__ = [
    "CAM",
    "ActivationCost",
    "ActivationMoments",
    "AttentionMaps",
    "AttentionRollout",
    "Attributions",
    "Derivative",
    "Disagreement",
    "Disagreements",
    "Faithfulness",
    "HeatMaps",
    "LearnedScales",
    "Memory",
    "Probe",
    "ReceptiveField",
    "ReceptiveFields",
    "Region",
    "Report",
    "Result",
    "Sanity",
    "SharedKeys",
    "Similarity",
    "Sparsity",
    "TokenMatrices",
    "TokenPatterns",
    "activation_cost",
    "activation_moments",
    "attention_maps",
    "attention_rollout",
    "disagreements",
    "faithfulness",
    "grad_cam",
    "has_attention",
    "has_token_matrices",
    "integrated_gradients",
    "learned_scales",
    "memory",
    "occlusion",
    "receptive_field",
    "receptive_field_comparison",
    "report",
    "sanity",
    "smooth_grad",
    "sparsity",
    "token_matrices",
]
