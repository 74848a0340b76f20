"""Optimizers, schedules, averages and recipes of the published trainings."""

from keras_metaformer.training.averaging import AverageWeights, WeightAverage
from keras_metaformer.training.distillation import Distiller
from keras_metaformer.training.groups import ParameterGroup, parameter_groups
from keras_metaformer.training.optimizers import LAMB, AdamW
from keras_metaformer.training.recipe import (
    Recipe,
    build_loss,
    build_optimizer,
    list_recipes,
    load_recipe,
    wrap_for_training,
)
from keras_metaformer.training.schedules import (
    EpochSchedule,
    constant_schedule,
    epoch_schedule,
    linear_schedule,
)
from keras_metaformer.training.start import (
    build_model,
    freeze_backbone,
    remap_imagenet21k_head,
)

__all__ = [
    "LAMB",
    "AdamW",
    "AverageWeights",
    "Distiller",
    "EpochSchedule",
    "ParameterGroup",
    "Recipe",
    "WeightAverage",
    "build_loss",
    "build_model",
    "build_optimizer",
    "constant_schedule",
    "epoch_schedule",
    "freeze_backbone",
    "linear_schedule",
    "list_recipes",
    "load_recipe",
    "parameter_groups",
    "remap_imagenet21k_head",
    "wrap_for_training",
]
