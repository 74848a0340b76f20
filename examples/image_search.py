"""Image search by embeddings: a folder in, a page of nearest neighbours out.

Every picture of the folder becomes a vector; scikit-learn finds those nearest to each.
The page holds all pictures and needs no server and no network: a click on a picture
shows those that are most like it.

Run: python -m examples.image_search FOLDER [--model CAFormerS18] [--output page.html]
     python -m examples.image_search        # trains on digits first, and is measured
Needs: pip install "keras-metaformer[tensorflow,examples]"
"""

import argparse
import base64
import html
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

import keras_metaformer as km
from keras_metaformer.data import EvaluationTransform, ImageDescription
from keras_metaformer.data.digits import load_digits
from keras_metaformer_lite.images import expand_images, load_image

THUMBNAIL = 128


def nearest(vectors: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the nearest by cosine, each without itself, and similarities."""
    from sklearn.neighbors import NearestNeighbors

    number = min(number, len(vectors) - 1)
    search = NearestNeighbors(n_neighbors=number, metric="cosine").fit(vectors)
    distances, indices = search.kneighbors()  # of each vector but itself
    return indices, 1 - distances


def write_page(
    files: list[Path], vectors: np.ndarray, output: Path, number: int
) -> None:
    """Write the page; `vectors` are those of the files, in their order."""
    indices, similarities = nearest(vectors, number)
    pictures = [
        {
            "name": file.name,
            "image": _thumbnail(file),
            "near": [
                [int(index), round(float(similarity), 3)]
                for index, similarity in zip(*pair, strict=True)
            ],
        }
        for file, *pair in zip(files, indices, similarities, strict=True)
    ]
    # Within a script a "<" may begin its end.
    data = json.dumps(pictures).replace("<", "\\u003c")
    title = f"{len(files)} pictures by likeness"
    page = PAGE.replace("TITLE", html.escape(title)).replace("PICTURES", data)
    output.write_text(page, encoding="utf-8")


def _thumbnail(file: Path) -> str:
    picture = load_image(file)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def search(folder: Path, model: Any, output: Path, number: int = 12) -> np.ndarray:
    """Write the page of a folder; the vectors of its pictures, sorted by path."""
    files = sorted(Path(file) for file in expand_images([str(folder)]))
    if len(files) < 2:
        raise ValueError(f"Expected two pictures or more. Received: folder={folder}")
    vectors = km.embeddings(model, files)
    write_page(files, vectors, output, number)
    return vectors


def train(epochs: int, samples: int | None = None) -> keras.Model:
    """A small model that has learned to tell digits."""
    digits = load_digits()
    model: Any = km.MetaFormer(
        depths=(1, 1),
        widths=(32, 64),
        mixer=("separable_convolution", "self_attention"),
        stem_kernel_size=3,
        stem_strides=2,
        stem_padding=1,
        input_shape=(32, 32, 3),
        classes=10,
        include_preprocessing=True,
    )
    model.image_description = ImageDescription(
        EvaluationTransform(32), includes_preprocessing=True
    )
    model.compile(km.training.AdamW(2e-3), "sparse_categorical_crossentropy")
    whole = len(digits.train_images[:samples]) // 32 * 32
    images = digits.train_images[:whole].astype("float32")
    model.fit(images, digits.train_labels[:whole], 32, epochs, verbose=2)
    return model


def precision(vectors: np.ndarray, labels: np.ndarray, number: int = 5) -> float:
    """The share of each picture's nearest that are of its class."""
    indices, _ = nearest(vectors, number)
    return float((labels[indices] == labels[:, None]).mean())


def run(
    output: Path, epochs: int = 12, samples: int | None = None, held_out: int = 360
) -> tuple[float, float]:
    """The precision among held-out digits before training and after."""
    keras.utils.set_random_seed(0)
    digits = load_digits()
    labels = digits.test_labels[:held_out]
    with tempfile.TemporaryDirectory() as name:
        for index, image in enumerate(digits.test_images[:held_out]):
            file = Path(name) / f"{index:03}_a_{labels[index]}.png"
            Image.fromarray(image).save(file)
        before = search(Path(name), train(0), output)
        after = search(Path(name), train(epochs, samples), output)
    return precision(before, labels), precision(after, labels)


PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
  body { font: 16px/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 1200px;
         padding: 0 12px 24px; color: #222; background: #fff; }
  h1 { font-size: 1.3rem; }
  h2 { font-size: 1.1rem; overflow-wrap: anywhere; }
  .pictures { display: grid; gap: 8px;
              grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)); }
  button { border: 1px solid #ccc; border-radius: 6px; background: #fafafa;
           padding: 4px;
           font: inherit; font-size: .75rem; color: inherit; cursor: pointer;
           min-width: 0; overflow-wrap: anywhere;
           display: grid; align-content: start; justify-items: center; }
  button:hover, button:focus-visible { outline: 3px solid #1f4e79; }
  img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; }
  #near { border-bottom: 1px solid #ccc; padding-bottom: 12px; min-height: 10rem; }
</style>
<h1>TITLE</h1>
<section id="near" aria-live="polite"></section>
<h2>All pictures</h2>
<div id="all" class="pictures"></div>
<script>
const pictures = PICTURES;
function button(index, caption) {
  const {name, image} = pictures[index];
  const made = document.createElement("button");
  const shown = document.createElement("img");
  shown.src = image;
  shown.alt = "";
  shown.loading = "lazy";
  made.append(shown, caption ?? name);
  made.title = name;
  made.setAttribute("aria-label", `Most like ${name}`);
  made.onclick = () => show(index);
  return made;
}
function show(index) {
  const near = document.getElementById("near");
  const title = document.createElement("h2");
  title.textContent = `Most like ${pictures[index].name}`;
  const row = document.createElement("div");
  row.className = "pictures";
  row.append(button(index, "this one"));
  for (const [other, likeness] of pictures[index].near)
    row.append(button(other, `${pictures[other].name} ${likeness.toFixed(2)}`));
  near.replaceChildren(title, row);
  near.scrollIntoView({block: "nearest"});
}
document.getElementById("all").append(...pictures.map((_, index) => button(index)));
show(0);
</script>
</html>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--model", default="CAFormerS18", help="name or .keras file")
    parser.add_argument("--output", type=Path, default=Path("neighbours.html"))
    parser.add_argument("--epochs", type=int, default=12, help="on digits")
    arguments = parser.parse_args()
    if arguments.folder is None:
        before, after = run(arguments.output, arguments.epochs)
        print(f"of the five nearest {before:.1%} are alike before training", end=", ")
        print(f"{after:.1%} after")
    else:
        is_file = arguments.model.endswith(".keras")
        make: Any = km.load if is_file else lambda name: getattr(km, name)()
        search(arguments.folder, make(arguments.model), arguments.output)
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    main()
