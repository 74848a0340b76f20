"""A data set of TensorFlow Datasets' own kind, prepared on the spot by a child process.

python tiny_dataset.py FORMAT FOLDER [without-tensorflow]
"""

import io
import sys
from importlib.machinery import PathFinder

import numpy as np
from PIL import Image

#: Rows of the first image; one more for each further one.
ROWS = 10


def hide_tensorflow() -> None:
    """As where TensorFlow is not installed."""
    find = PathFinder.find_spec

    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            return None
        return find(name, path, target)

    PathFinder.find_spec = find_spec  # type: ignore[method-assign]


def prepare(file_format: str, folder: str) -> None:
    import tensorflow_datasets as tfds

    class Tiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(None, None, 3), encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=["ant", "bee", "cow"]),
                }
            )
            return tfds.core.DatasetInfo(
                builder=self, features=features, supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            return {"train": self._examples(12), "test": self._examples(5)}

        def _generate_examples(self):
            raise AssertionError("each part has examples of its own")

        def _examples(self, count):
            for index in range(count):
                pixels = np.full((ROWS + index, 7, 3), 10 * index, "uint8")
                # Encoded: of arrays TensorFlow Datasets makes images by TensorFlow.
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "png")
                file.seek(0)
                yield index, {"image": file, "label": index % 3}

    Tiny(data_dir=folder, file_format=file_format).download_and_prepare()


if __name__ == "__main__":
    if sys.argv[3:]:
        hide_tensorflow()
    prepare(*sys.argv[1:3])
