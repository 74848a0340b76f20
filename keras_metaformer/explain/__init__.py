"""What a model sees, and what of it decides its answers."""

from keras_metaformer.explain.attributions import (
    Attributions,
    integrated_gradients,
    occlusion,
    smooth_grad,
)
from keras_metaformer.explain.cam import CAM, grad_cam
from keras_metaformer.explain.faithfulness import Faithfulness, faithfulness
from keras_metaformer.explain.heat_maps import HeatMaps
from keras_metaformer.explain.probe import Derivative, Probe
from keras_metaformer.explain.results import Result
from keras_metaformer.explain.sanity import Sanity, sanity
from keras_metaformer.explain.targets import Region, Similarity

__all__ = [
    "CAM",
    "Attributions",
    "Derivative",
    "Faithfulness",
    "HeatMaps",
    "Probe",
    "Region",
    "Result",
    "Sanity",
    "Similarity",
    "faithfulness",
    "grad_cam",
    "integrated_gradients",
    "occlusion",
    "sanity",
    "smooth_grad",
]
