"""Training in a loop of one's own, on each backend: a schedule and an average.

A step is some ten lines of TensorFlow, JAX or PyTorch; optimizer, schedule, gradient
accumulation and average are the same objects on all three.

Run: KERAS_BACKEND=jax python examples/custom_loop.py [--epochs 8]
"""

import argparse
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

import keras_metaformer as km
from keras_metaformer.data.digits import load_digits

Step = Callable[[np.ndarray, np.ndarray], float]


def build() -> keras.Model:
    return km.MetaFormer(
        depths=(1, 1),
        widths=(32, 64),
        mixer=("separable_convolution", "self_attention"),
        stem_kernel_size=3,
        stem_strides=2,
        stem_padding=1,
        input_shape=(32, 32, 3),
        classes=10,
        classifier_activation=None,  # the loss takes logits
        name="digits",
    )


def normalised(images: np.ndarray) -> np.ndarray:
    return (images / 127.5 - 1.0).astype("float32")


def loss_of(logits: Any, labels: Any) -> Any:
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, True)
    return ops.mean(losses)


def tensorflow_step(model: keras.Model, optimizer: Any) -> Step:
    import tensorflow as tf

    @tf.function
    def step(images, labels):
        with tf.GradientTape() as tape:
            loss: Any = loss_of(model(images, training=True), labels)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return lambda images, labels: float(step(images, labels))


def torch_step(model: keras.Model, optimizer: Any) -> Step:
    import torch

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        loss = loss_of(model(images, training=True), ops.convert_to_tensor(labels))
        variables = model.trainable_variables
        for variable in variables:
            variable.value.grad = None
        loss.backward()
        with torch.no_grad():
            optimizer.apply([v.value.grad for v in variables], variables)
        return float(loss.detach())

    return step


def jax_step(model: keras.Model, optimizer: Any) -> Step:
    import jax

    def loss_and_state(trainable, others, images, labels):
        logits, others = model.stateless_call(trainable, others, images, training=True)
        return loss_of(logits, labels), others

    @jax.jit
    def step(trainable, others, state, images, labels):
        gradient_of = jax.value_and_grad(loss_and_state, has_aux=True)
        (loss, others), gradients = gradient_of(trainable, others, images, labels)
        trainable, state = optimizer.stateless_apply(state, gradients, trainable)
        return loss, (trainable, others, state)

    def stateful(images: np.ndarray, labels: np.ndarray) -> float:
        # JAX's functions change nothing: what they return is put back.
        held = (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
        )
        values = [[variable.value for variable in part] for part in held]
        loss, new = step(*values, images, labels)
        for part, changed in zip(held, new, strict=True):
            for variable, value in zip(part, changed, strict=True):
                variable.assign(value)
        return float(loss)

    return stateful


STEPS = {"tensorflow": tensorflow_step, "jax": jax_step, "torch": torch_step}


def train(
    epochs: int = 8, samples: int | None = None, accumulate: int = 2
) -> dict[str, Any]:
    """The model, its average, the loss of each batch, and accuracies held out."""
    digits = load_digits()
    images = normalised(digits.train_images[:samples])
    labels = digits.train_labels[:samples].astype("int32")
    keras.utils.set_random_seed(0)
    model = build()
    batch_size = 32
    updates = len(images) // (batch_size * accumulate)  # of an epoch
    # LAMB goes in here as well. It moves weights by a part of themselves, and takes far
    # more updates than these few hundred to grow from small initial values.
    optimizer = km.training.AdamW(
        km.training.EpochSchedule(
            km.training.epoch_schedule(8e-3, epochs, warmup_epochs=1, warmup_rate=1e-3),
            updates,
        ),
        weight_decay=0.05,
        gradient_accumulation_steps=accumulate,
    )
    optimizer.build(model.trainable_variables)
    average = km.training.WeightAverage(model, decay=0.9)
    step = STEPS[keras.backend.backend()](model, optimizer)
    losses = []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(images))
        for number in range(updates * accumulate):
            chosen = order[number * batch_size :][:batch_size]
            losses.append(step(images[chosen], labels[chosen]))
            if (number + 1) % accumulate == 0:
                average.update()

    def accuracy() -> float:
        logits = model.predict(normalised(digits.test_images), verbose=0)
        return float((logits.argmax(-1) == digits.test_labels).mean())

    last = accuracy()
    with average.applied():
        averaged = accuracy()
    return {
        "model": model,
        "optimizer": optimizer,
        "average": average,
        "losses": losses,
        "accuracy": last,
        "averaged": averaged,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    result = train(parser.parse_args().epochs)
    print(f"weights of the last step: {result['accuracy']:.1%} of the digits are right")
    print(f"averaged weights: {result['averaged']:.1%}")


if __name__ == "__main__":
    main()
