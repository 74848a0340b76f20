"""Mixers on sequences: characters of Python's documentation, guessed from both sides.

The text is what Python's `help()` shows (`pydoc_data.topics`), 465,000 characters that
come with every Python. Of each window of 32 characters the one in the middle is masked,
and a model of two blocks guesses it from those around it; a fifth of the topics are
held out. The same token mixers as in the image models, on `(batch, tokens, channels)`.

Run: python examples/sequences.py [--epochs 8]
"""

import argparse
import collections
import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_metaformer import blocks, layers

#: The commonest characters; one number more stands for all others.
CHARACTERS = 60
RARE, MASK = CHARACTERS, CHARACTERS + 1


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of text as numbers.

    Attributes:
        inputs: int32 `(windows, tokens)`, the middle one masked.
        targets: int32 `(windows,)`, the characters that were there.
    """

    inputs: np.ndarray
    targets: np.ndarray


def load_text(tokens: int, windows: int, seed: int = 0) -> tuple[Windows, Windows]:
    """Windows to train on, and a quarter as many of topics that are held out."""
    topics = importlib.import_module("pydoc_data.topics").topics
    texts = [topics[name] for name in sorted(topics)]
    counts = collections.Counter("".join(texts))
    known = {character: i for i, (character, _) in enumerate(counts.most_common(RARE))}
    numbers = [
        np.array([known.get(character, RARE) for character in text], "int32")
        for text in texts
        if len(text) > tokens
    ]
    generator = np.random.default_rng(seed)

    def draw(texts: list[np.ndarray], count: int) -> Windows:
        views = [np.lib.stride_tricks.sliding_window_view(x, tokens) for x in texts]
        every = np.concatenate(views)
        inputs = every[generator.choice(len(every), count, replace=False)]
        targets = inputs[:, tokens // 2].copy()
        inputs[:, tokens // 2] = MASK
        return Windows(inputs, targets)

    held_out = [x for index, x in enumerate(numbers) if index % 5 == 0]
    others = [x for index, x in enumerate(numbers) if index % 5]
    return draw(others, windows), draw(held_out, windows // 4)


#: Each makes the token mixer of a block. gMLP's mixes channels too; the first one mixes
#: nothing, so that all it can know is how often each character comes.
MIXERS: dict[str, Callable[[], keras.layers.Layer]] = {
    "identity": layers.IdentityMixer,
    "gMLP": lambda: layers.GatedMLP(4),
    "attention": lambda: layers.SelfAttentionMixer(16),
    "FFNified attention": lambda: layers.FFNifiedAttention(5),
}


def build(mixer: str, tokens: int, width: int = 64, depth: int = 2) -> keras.Model:
    """A model from `(batch, tokens)` numbers to `(batch, characters)` probabilities."""
    inputs = keras.Input((tokens,), dtype="int32")
    x = keras.layers.Embedding(CHARACTERS + 2, width)(inputs)
    x = layers.PositionEmbedding("random_normal")(x)
    for index in range(depth):
        step = blocks.ResidualBranch(
            MIXERS[mixer](), keras.layers.LayerNormalization(epsilon=1e-6)
        )
        if mixer == "gMLP":
            x = step(x)
            continue
        channels = blocks.ResidualBranch(
            layers.ChannelMLP(activation="gelu"),
            keras.layers.LayerNormalization(epsilon=1e-6),
        )
        x = blocks.MetaFormerBlock(step, channels, name=f"block_{index}")(x)
    x = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    x = keras.layers.Flatten()(
        keras.layers.Cropping1D((tokens // 2, tokens // 2 - 1))(x)
    )
    x = keras.layers.Dense(CHARACTERS + 1, activation="softmax")(x)
    return keras.Model(inputs, x, name=mixer.lower().replace(" ", "_"))


def train(
    mixer: str,
    epochs: int = 8,
    windows: int = 32768,
    tokens: int = 32,
    width: int = 64,
    depth: int = 2,
) -> tuple[keras.Model, float]:
    """The trained model and its accuracy on the windows held out."""
    texts, held_out = load_text(tokens, windows)
    model: Any = build(mixer, tokens, width, depth)
    model.compile(
        optimizer=keras.optimizers.AdamW(3e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(texts.inputs, texts.targets, batch_size=128, epochs=epochs, verbose=2)
    _, accuracy = model.evaluate(held_out.inputs, held_out.targets, verbose=0)
    return model, accuracy


def share_of_the_commonest(windows: Windows) -> float:
    """The accuracy of one who always guesses the commonest character, a blank."""
    return np.bincount(windows.targets).max() / len(windows.targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    epochs = parser.parse_args().epochs
    _, held_out = load_text(32, 32768)
    lines = [f"{'always a blank':20} {share_of_the_commonest(held_out):6.1%}"]
    for mixer in MIXERS:
        model, accuracy = train(mixer, epochs)
        lines.append(f"{mixer:20} {accuracy:6.1%}  {model.count_params():,} parameters")
    print("Held-out characters that were guessed:", *lines, sep="\n")


if __name__ == "__main__":
    main()
