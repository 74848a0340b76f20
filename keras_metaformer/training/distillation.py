"""Distillation: a model learns from another one's predictions too."""

from typing import Any

import keras
from keras import ops


def gives_probabilities(model: keras.Model) -> bool:
    """Whether a classifier's outputs are probabilities, by its last layer."""
    if getattr(model, "layers", None) and isinstance(model, keras.Sequential):
        last: Any = model.layers[-1]
    else:
        operation = getattr(model.outputs[0], "_keras_history", None)
        last = operation.operation if operation is not None else model.layers[-1]
    while isinstance(last, keras.Model):
        return gives_probabilities(last)
    if isinstance(last, keras.layers.Softmax):
        return True
    activation = getattr(last, "activation", None)
    return activation in (keras.activations.softmax, keras.activations.sigmoid)


class _MeanOfBatch(keras.losses.Loss):
    """The mean over a batch of what is computed already, as Keras takes it.

    Of one replica of several, that is its part of the mean.
    """

    def call(self, y_true, y_pred):
        return y_pred


class Distiller(keras.Model):
    """Fits a student to labels and to a teacher's predictions at the same time.

    With `p` the student's probabilities, `q` the teacher's, and `CE(y, p)` the
    cross-entropy:

        hard:  loss = (1 - alpha) * CE(y, p) + alpha * CE(one_hot(argmax q), p)
        soft:  loss = (1 - alpha) * CE(y, p) + alpha * T² * KL(q_T, p_T)

    where `p_T` and `q_T` are the probabilities at the temperature `T`, those of the
    logits over `T`. `CE(y, p)` is the loss that is compiled; in evaluation it is the
    only part. The weights are those of `student`: save that one, which knows nothing
    of the teacher.

    Example:

    >>> distiller = Distiller(student, teacher)  # doctest: +SKIP
    >>> distiller.compile("adamw", "categorical_crossentropy")  # doctest: +SKIP
    >>> distiller.fit(images, targets)  # doctest: +SKIP
    >>> student.save("student.keras")  # doctest: +SKIP

    Args:
        student: classifier that is trained.
        teacher: classifier of the same images and classes, any Keras model. Where it
            wants other pixels or another size, put layers that convert them before it.
        hard: whether the teacher's best class counts, or its probabilities.
        alpha: weight of the teacher's part, in [0, 1].
        temperature: positive, of the soft form.

    Raises:
        ValueError: if an argument is out of range, or the two models do not have the
            same number of classes.

    Reference:
        - Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531
        - Training data-efficient image transformers & distillation through attention
          (the hard form), https://arxiv.org/abs/2012.12877
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        hard: bool = True,
        alpha: float = 0.5,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= alpha <= 1:
            raise ValueError(f"`alpha` must lie in [0, 1]. Received: alpha={alpha}")
        if not temperature > 0:
            raise ValueError(
                f"`temperature` must be positive. Received: temperature={temperature}"
            )
        classes = student.output_shape[-1], teacher.output_shape[-1]
        if classes[0] != classes[1]:
            raise ValueError(
                "Student and teacher must have the same classes. Received: a student "
                f"of {classes[0]}, a teacher of {classes[1]}"
            )
        self.hard = bool(hard)
        self.alpha = float(alpha)
        self.temperature = float(temperature)
        self.student = student
        self.teacher = teacher
        self.teacher.trainable = False
        self._student_gives_probabilities = gives_probabilities(student)
        self._teacher_gives_probabilities = gives_probabilities(teacher)

    def build(self, input_shape):
        self.built = True

    def call(self, inputs, training=None):
        return self.student(inputs, training=training)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        base: Any = super().compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
        )
        if not training:
            return base
        taught = ops.stop_gradient(self.teacher(x, training=False))
        student = _logits(y_pred, self._student_gives_probabilities)
        teacher = _logits(taught, self._teacher_gives_probabilities)
        if self.hard:
            best = ops.one_hot(ops.argmax(teacher, axis=-1), teacher.shape[-1])
            each = -ops.sum(best * ops.log_softmax(student, axis=-1), axis=-1)
        else:
            student = ops.log_softmax(student / self.temperature, axis=-1)
            teacher = ops.log_softmax(teacher / self.temperature, axis=-1)
            each = ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
            each = each * self.temperature**2
        # TensorFlow takes no name with an underscore in front.
        taught_loss: Any = _MeanOfBatch(name="mean_of_batch")(each, each, sample_weight)
        return (1.0 - self.alpha) * base + self.alpha * taught_loss


def _logits(outputs, are_probabilities: bool):
    """Logits in float32, up to a constant for each sample."""
    outputs = ops.cast(outputs, "float32")
    if not are_probabilities:
        return outputs
    return ops.log(ops.maximum(outputs, 1e-30))
