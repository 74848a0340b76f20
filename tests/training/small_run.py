"""A small training whose batches are a function of epoch and step."""

import functools

import keras
import numpy as np

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.training.loop import Interval, Loop

SIZE, CLASSES, STEPS, EPOCHS = 32, 3, 4, 2


class RandomBatches:
    """Random images and labels; `bad` is a step with an infinite image."""

    steps_per_epoch = STEPS

    def __init__(self, bad=None):
        self.bad = bad

    def epoch(self, epoch, start_step=0):
        for step in range(start_step, STEPS):
            random = np.random.default_rng([1, epoch, step])
            images = random.normal(size=(4, SIZE, SIZE, 3)).astype("float32")
            if (epoch, step) == self.bad:
                images[2, 0, 0, 0] = np.inf
            labels = random.integers(0, CLASSES, 4)
            yield images, np.eye(CLASSES, dtype="float32")[labels]


@functools.cache
def _trained():
    """A compiled model with its average, and what all its state began as.

    With all that is random in training: dropout and stochastic depth. Made once,
    because JAX compiles it for a while.
    """
    keras.utils.set_random_seed(3)
    model = km.MetaFormer(
        depths=(1, 1),
        widths=(8, 32),
        mixer=("pooling", "self_attention"),
        input_shape=(SIZE, SIZE, 3),
        classes=CLASSES,
        classifier_activation=None,
        stochastic_depth_rate=0.3,
        head_dropout=0.3,
        seed=5,
    )
    model.compile(
        keras.optimizers.AdamW(1e-2, gradient_accumulation_steps=2),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.optimizer.build(model.trainable_variables)
    average = km.training.WeightAverage(model, 0.9)
    variables = [*model.variables, *model.optimizer.variables]
    beginning = [(each, to_numpy(each.value).copy()) for each in variables]
    return model, average, beginning, [value.copy() for value in average.get()]


def make_loop(path, batches=None, **options):
    """A loop of a model as it was drawn; where it is to go on, of a spoilt one."""
    model, average, beginning, averages = _trained()
    spoil = 1 if path.exists() else 0
    for variable, value in beginning:
        variable.assign(value + spoil)
    average.set([value + spoil for value in averages])
    options.setdefault("interval", Interval(steps=2))
    options["variables"] = {"average": average.variables}
    options["movers"] = [km.training.AverageWeights(average)]
    return Loop(model, model, batches or RandomBatches(), EPOCHS, path, **options)
