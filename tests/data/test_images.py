import io
import math
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_metaformer.data import images
from keras_metaformer.data.images import (
    EvaluationTransform,
    ImageError,
    expand_images,
    load_image,
    to_rgb,
)
from keras_metaformer.processes import run_python

pytestmark = pytest.mark.backend_independent

RED, BLUE = (255, 0, 0), (0, 0, 255)


def two_halves(width=8, height=4) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


# Reading ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "gif"])
def test_lossless_formats_come_back_as_they_were(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    two_halves().save(path)

    image = load_image(path)

    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.asarray(two_halves()))


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats_come_back_nearly(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    two_halves(64, 32).save(path)

    pixels = np.asarray(load_image(path)).astype(int)

    assert np.abs(pixels[16, 8] - RED).max() < 12
    assert np.abs(pixels[16, 56] - BLUE).max() < 12


def test_exif_orientation_is_applied(tmp_path):
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise for display
    two_halves().save(path, exif=exif)

    image = load_image(path)

    assert image.size == (4, 8)
    assert image.getpixel((0, 0)) == RED
    assert image.getpixel((0, 7)) == BLUE


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_becomes_rgb(tmp_path, mode):
    path = tmp_path / "grey.png"
    Image.new(mode, (2, 2), 255).save(path)

    assert load_image(path).getpixel((1, 1)) == (255, 255, 255)


def test_palette_becomes_rgb(tmp_path):
    path = tmp_path / "palette.png"
    two_halves().quantize(4).save(path)
    with Image.open(path) as stored:
        assert stored.mode == "P"

    np.testing.assert_array_equal(
        np.asarray(load_image(path)), np.asarray(two_halves())
    )


def test_cmyk_becomes_rgb(tmp_path):
    path = tmp_path / "cmyk.tiff"
    Image.new("CMYK", (2, 2), (0, 255, 255, 0)).save(path)

    assert load_image(path).getpixel((0, 0)) == RED


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_grey_is_scaled_to_eight(tmp_path, suffix):
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.array([[0, 257, 32896, 65535]], "uint16")).save(path)

    assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("dtype", ["uint16", ">u2", "int32"])
def test_every_sixteen_bit_value_is_rounded(dtype):
    values = np.arange(65536).reshape(256, 256)

    image = to_rgb(Image.fromarray(values.astype(dtype)))

    np.testing.assert_array_equal(np.asarray(image)[..., 0], np.rint(values / 257))


def test_transparency_is_laid_on_white(tmp_path):
    half_clear = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    half_clear.putpixel((1, 0), (0, 0, 0, 0))
    half_clear.save(tmp_path / "rgba.png")
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "palette.png", transparency=1)
    Image.new("LA", (2, 1), (7, 0)).save(tmp_path / "grey.png")

    for name in ("rgba.png", "palette.png"):
        assert load_image(tmp_path / name).getpixel((0, 0)) == RED
        assert load_image(tmp_path / name).getpixel((1, 0)) == (255, 255, 255)
    assert load_image(tmp_path / "grey.png").getpixel((0, 0)) == (255, 255, 255)


def test_of_an_animation_the_first_image_is_taken(tmp_path):
    path = tmp_path / "animation.gif"
    first, second = Image.new("RGB", (2, 2), RED), Image.new("RGB", (2, 2), BLUE)
    first.save(path, save_all=True, append_images=[second])

    assert load_image(path).getpixel((0, 0)) == RED


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, with almost no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    parts = (b"IHDR", size), (b"IDAT", pixels), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def encoded(image: Image.Image, image_format: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello, not an image", "JPEG.*first bytes are b'hello, not an im'"),
        (b"", "the file is empty"),
        (encoded(two_halves(64, 64), "JPEG")[:-200], "reading it failed with"),
        (encoded(two_halves(64, 64), "PNG")[:60], "reading it failed with"),
        (png_header(60000, 60000), r"at most [\d,]+ pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "first bytes"),
    ],
    ids=["text", "empty", "cut JPEG", "cut PNG", "too many pixels", "PostScript"],
)
def test_what_is_no_image_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)

    with pytest.raises(ImageError, match=message) as caught:
        load_image(path)

    assert str(caught.value).endswith(f"Received: path={str(path)!r}")


def test_missing_file_and_directory_are_refused(tmp_path):
    with pytest.raises(ImageError, match="there is none"):
        load_image(tmp_path / "missing.png")
    with pytest.raises(ImageError, match=r"not a directory.*Received: path="):
        load_image(tmp_path)


def test_what_may_never_end_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(ImageError, match="a pipe or a device"):
            load_image(path)


def test_the_warnings_of_other_threads_are_left_alone(tmp_path, monkeypatch):
    """Filters belong to the process: changed here, they are changed everywhere."""
    two_halves().save(tmp_path / "image.png")
    before, seen = list(warnings.filters), []
    opened = Image.open

    def look(*arguments, **options):
        seen.append(list(warnings.filters))
        return opened(*arguments, **options)

    monkeypatch.setattr(Image, "open", look)
    load_image(tmp_path / "image.png")
    assert seen == [before]


def test_floating_point_and_wide_integer_images_are_refused(tmp_path):
    path = tmp_path / "float.tiff"
    Image.fromarray(np.zeros((2, 2), "float32")).save(path)

    with pytest.raises(ImageError, match=r"floating-point.*Received: path="):
        load_image(path)
    with pytest.raises(ImageError, match="from -1 to 70000"):
        to_rgb(Image.fromarray(np.array([[-1, 70000]], "int32")))


@settings(max_examples=200, deadline=None)
@given(
    image_format=st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]),
    position=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
)
def test_a_damaged_file_gives_an_image_or_an_image_error(
    tmp_path_factory, image_format, position, byte
):
    content = bytearray(encoded(two_halves(16, 16), image_format))
    content[int(position * len(content))] = byte
    path = tmp_path_factory.mktemp("damaged") / "image"
    path.write_bytes(content)

    try:
        assert load_image(path).mode == "RGB"
    except ImageError as error:
        assert "Received: path=" in str(error)


# Finding ----------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("b.png", "a.JPG", "notes.txt", "below/c.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_directory_stands_for_its_images(folder):
    assert expand_images([folder]) == [folder / "a.JPG", folder / "b.png"]


def test_a_pattern_stands_for_what_matches(folder):
    assert expand_images([f"{folder}/*.png"]) == [folder / "b.png"]
    assert expand_images([f"{folder}/**/*.[jJ]*"]) == [
        folder / "a.JPG",
        folder / "below/c.jpg",
    ]


def test_a_circle_of_links_is_walked_once(folder):
    (folder / "below/round").symlink_to(folder, target_is_directory=True)
    (folder / "below/.hidden").mkdir()
    (folder / "below/.hidden/d.jpg").touch()
    (folder / "elsewhere [*]").mkdir()
    (folder / "elsewhere [*]/e.jpg").touch()
    (folder / "link").symlink_to(folder / "elsewhere [*]", target_is_directory=True)

    expected = {"a.JPG", "c.jpg", "e.jpg"}
    for pattern in ("**/*.[jJ]*", "**/**/*.[jJ]*", "**/*.jpg", "**/below/../*.JPG"):
        found = expand_images([f"{folder}/{pattern}"])
        names = [file.name for file in found]
        assert 0 < len(names) == len(set(names))
        assert expected.issuperset(names)
    assert len(expand_images([f"{folder}/**/*.[jJ]*"])) == len(expected)
    assert {file.name for file in expand_images([f"{folder}/**"])} == {
        "a.JPG", "b.png", "notes.txt", "c.jpg", "e.jpg"
    }  # fmt: skip


def test_files_keep_their_order_and_are_listed_once(folder):
    paths = [folder / "b.png", folder / "missing.png", folder]

    assert expand_images(paths) == [
        folder / "b.png",
        folder / "missing.png",
        folder / "a.JPG",
    ]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    (tmp_path / "photo[1].jpg").touch()

    assert expand_images([tmp_path / "photo[1].jpg"]) == [tmp_path / "photo[1].jpg"]


def test_nothing_found_is_an_error(tmp_path):
    with pytest.raises(ImageError, match=r"a directory with image files.*Received"):
        expand_images([tmp_path])
    with pytest.raises(ImageError, match=r"pattern that matches.*\*\.png"):
        expand_images([f"{tmp_path}/*.png"])
    with pytest.raises(ImageError, match="at least one image"):
        expand_images([])


# Transforming -----------------------------------------------------------------


@pytest.fixture
def photograph() -> Image.Image:
    """400x300, every pixel its own."""
    pixels = np.random.default_rng(5).integers(0, 256, (300, 400, 3), "uint8")
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("crop_fraction", "resized", "left", "top"),
    [
        (1.0, (298, 224), 37, 0),
        (0.875, (341, 256), 58, 16),  # 58.5 is rounded to even
        (0.9, (330, 248), 53, 12),
    ],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_crop_is_where_torchvision_puts_it(
    photograph, crop_fraction, resized, left, top, interpolation
):
    transform = EvaluationTransform(224, crop_fraction, interpolation)
    resampling = Image.Resampling[interpolation.upper()]

    result = transform(photograph, normalise=False)

    expected = np.asarray(photograph.resize(resized, resampling))
    expected = expected[top : top + 224, left : left + 224]
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)


def test_an_upright_image_is_cropped_above_and_below(photograph):
    upright = photograph.transpose(Image.Transpose.TRANSPOSE)
    transform = EvaluationTransform(224, 0.875, "bilinear")

    # Pillow rounds between its two passes, which change places: one level apart.
    np.testing.assert_allclose(
        transform(upright, normalise=False).transpose(1, 0, 2),
        transform(photograph, normalise=False),
        atol=1,
    )


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("crop_fraction", [0.875, 1.0])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_of_a_strip_only_the_crop_is_resized(
    photograph, monkeypatch, upright, crop_fraction, interpolation
):
    transform = EvaluationTransform(48, crop_fraction, interpolation)
    if upright:
        photograph = photograph.transpose(Image.Transpose.TRANSPOSE)
    whole = transform(photograph, normalise=False)
    monkeypatch.setattr(images, "_LARGEST_RESIZED", 0)

    result = transform(photograph, normalise=False)

    np.testing.assert_allclose(result, whole, atol=1)


def test_a_strip_costs_no_gigabytes(tmp_path):
    """1 x 20,000 pixels, of which a whole would be 256 x 5,120,000."""
    strip = np.zeros((20000, 1, 3), "uint8")
    strip[9900:10100] = 200
    Image.fromarray(strip).save(tmp_path / "strip.png")
    program = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from keras_metaformer.data.images import EvaluationTransform, load_image\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "image = load_image(sys.argv[1])\n"
        "pixels = EvaluationTransform(224, 0.875)(image, normalise=False)\n"
        "print(np.unique(pixels))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    finished = run_python("-c", program, tmp_path / "strip.png", env=environment)

    assert finished.stdout.strip() == "[200.]", finished.stderr


def test_squash_gives_up_the_aspect(photograph):
    result = EvaluationTransform(64, squash=True)(photograph, normalise=False)

    expected = photograph.resize((64, 64), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(result, np.asarray(expected))


def test_normalising_subtracts_the_mean_and_divides():
    transform = EvaluationTransform(2, mean=(0.5, 0.0, 0.2), std=(0.5, 1.0, 0.4))
    white = np.full((5, 5, 3), 255, "uint8")

    np.testing.assert_allclose(
        transform(white), np.broadcast_to([1.0, 1.0, 2.0], (2, 2, 3)), rtol=1e-6
    )


def test_the_default_is_imagenets_mean_and_std():
    pixel = np.array([[[124, 116, 104]]], "uint8")

    result = EvaluationTransform(1)(pixel)

    expected = [
        (124 / 255 - 0.485) / 0.229,
        (116 / 255 - 0.456) / 0.224,
        (104 / 255 - 0.406) / 0.225,
    ]
    np.testing.assert_allclose(result[0, 0], expected, rtol=1e-4)


def test_arrays_and_images_give_the_same(photograph):
    transform = EvaluationTransform(96, 0.9)

    np.testing.assert_array_equal(
        transform(np.asarray(photograph)), transform(photograph)
    )


def test_grey_images_are_converted():
    assert EvaluationTransform(4)(Image.new("L", (9, 9), 3)).shape == (4, 4, 3)


@given(
    width=st.integers(1, 90), height=st.integers(1, 90), resolution=st.integers(1, 40)
)
@settings(max_examples=100, deadline=None)
def test_any_size_gives_the_resolution(width, height, resolution):
    image = Image.new("RGB", (width, height), RED)

    result = EvaluationTransform(resolution, 0.875)(image, normalise=False)

    assert result.shape == (resolution, resolution, 3)
    # Inside the image everywhere: outside, a crop would be black.
    assert (result == RED).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 0}, "Received: resolution=0"),
        ({"crop_fraction": 0.0}, "Received: crop_fraction=0.0"),
        ({"crop_fraction": 1.1}, "Received: crop_fraction=1.1"),
        ({"crop_fraction": 1e-12}, "Received: crop_fraction=1e-12"),
        ({"crop_fraction": math.nan}, "Received: crop_fraction=nan"),
        ({"interpolation": "cubic"}, "Received: interpolation='cubic'"),
        ({"mean": (0.5,)}, r"Received: mean=\(0.5,\)"),
        ({"std": (1.0, 0.0, 1.0)}, "three values"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EvaluationTransform(**{"resolution": 224, **arguments})


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), "uint8"),
        np.zeros((4, 4, 4), "uint8"),
        np.zeros((1, 1, 4, 4, 3), "uint8"),
        np.zeros((4, 4, 3), "float32"),
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ImageError, match="uint8 array"):
        EvaluationTransform(4)(array)


class TestWhatATransformTakes:
    transform = EvaluationTransform(16)

    def test_paths_pillow_images_and_arrays_alike(self, photograph, tmp_path):
        path = tmp_path / "picture.png"
        photograph.save(path)
        expected = self.transform(photograph)
        for image in (path, str(path), np.asarray(photograph)):
            np.testing.assert_array_equal(self.transform(image), expected)

    def test_batches(self, photograph, tmp_path):
        path = tmp_path / "picture.png"
        photograph.save(path)
        pixels = np.asarray(photograph)
        expected = np.stack([self.transform(photograph)] * 3)
        for batch in ([path, photograph, pixels], np.stack([pixels] * 3)):
            np.testing.assert_array_equal(self.transform(batch), expected)

    @pytest.mark.parametrize(
        ("image", "received"),
        [
            ([], "Received: none"),
            (None, "Received: image=None"),
            ("no such file.jpg", "Received: path='no such file.jpg'"),
        ],
    )
    def test_others_are_refused(self, image, received):
        with pytest.raises(ImageError, match=received):
            self.transform(image)
