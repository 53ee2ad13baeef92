"""core/data/to_rgb.py against NumPy, torchvision and Pillow: nothing is clipped, and every conversion is named."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torchvision.transforms.v2 import functional as torchvision

from core.data import to_rgb as rules
from core.data.decode import conversions_of, decode_rgb
from core.errors import BrokenImage

RNG = np.random.default_rng(0)
WIDE = RNG.integers(0, 65536, (20, 30)).astype(np.uint16)
HIGH = torchvision.to_dtype(torch.from_numpy(WIDE.copy()), torch.uint8, scale=True).numpy()
COLOUR = PIL.Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8))


def encoded(image: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def grey(data: bytes) -> NDArray[np.uint8]:
    pixels = np.asarray(decode_rgb(data, "x"))
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_greyscale_keeps_its_high_byte(kind: str) -> None:
    data = encoded(PIL.Image.fromarray(WIDE.astype(np.int32) if kind == "PPM" else WIDE), kind)
    assert (grey(data) == HIGH).all()
    assert conversions_of(data, "x") == (rules.HIGH_BITS,)


def test_16_bit_greyscale_where_white_is_zero() -> None:
    tags = ImageFileDirectory_v2()
    tags[262] = 0
    assert (grey(encoded(PIL.Image.fromarray(WIDE), "TIFF", tiffinfo=tags)) == 255 - HIGH).all()


def test_16_bit_colour_keeps_its_high_byte() -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = RNG.integers(0, 65536, (20, 30, 3)).astype(np.uint16)
    for ending in (".png", ".tiff"):
        data = cv2.imencode(ending, pixels[..., ::-1])[1].tobytes()
        assert (np.asarray(decode_rgb(data, "x")) == pixels >> 8).all()
        assert conversions_of(data, "x") == (rules.HIGH_BITS,)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (WIDE.astype(np.int32), HIGH),
        ((WIDE >> 8).astype(np.int32), HIGH),
        (WIDE.astype(np.int32) * 1000, None),
        (WIDE.astype(np.int32) - 30000, None),
        (WIDE.astype(np.float32), HIGH),
        (HIGH.astype(np.float32), HIGH),
        ((HIGH / 255).astype(np.float32), HIGH),
        (WIDE.astype(np.float32) * 1e9, None),
        (WIDE.astype(np.float32) / 65535 - 0.5, None),
        (np.full((20, 30), -3, np.float32), np.zeros((20, 30), np.uint8)),
    ],
)
def test_integers_and_floats_are_scaled_by_the_range_that_holds_them(
    values: NDArray[Any], expected: NDArray[np.uint8] | None
) -> None:
    if expected is None:  # no usual range: minimum … maximum
        low, high = float(values.min()), float(values.max())
        expected = np.round((values.astype(np.float64) - low) / (high - low) * 255).astype(np.uint8)
    data = encoded(PIL.Image.fromarray(values), "TIFF")
    assert np.abs(grey(data).astype(int) - expected).max() <= (values.dtype == np.float32)
    assert conversions_of(data, "x") == (rules.INTEGERS if values.dtype == np.int32 else rules.FLOATS,)


def test_values_that_are_not_finite_make_a_broken_image() -> None:
    with pytest.raises(BrokenImage, match="finite"):
        decode_rgb(encoded(PIL.Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), "x")


@pytest.mark.parametrize(
    ("mode", "kind", "reasons"),
    [
        ("RGB", "PNG", ()),
        ("RGB", "JPEG", ()),
        ("L", "PNG", ()),
        ("1", "PNG", ()),
        ("CMYK", "JPEG", (rules.CMYK,)),
        ("CMYK", "TIFF", (rules.CMYK,)),
        ("P", "PNG", (rules.PALETTE,)),
        ("P", "GIF", (rules.PALETTE,)),
        ("RGBA", "PNG", (rules.ALPHA,)),
        ("LA", "PNG", (rules.ALPHA,)),
    ],
)
def test_other_modes_are_those_of_pillow(mode: str, kind: str, reasons: tuple[str, ...]) -> None:
    data = encoded(COLOUR.convert(mode), kind)
    expected = PIL.Image.open(io.BytesIO(data)).convert("RGB")  # as torchvision's default_loader
    assert (np.asarray(decode_rgb(data, "x")) == np.asarray(expected)).all()
    assert conversions_of(data, "x") == reasons


def test_first_frames_orientation_and_transparent_colours_are_named() -> None:
    moving = encoded(COLOUR, "GIF", save_all=True, append_images=[COLOUR.rotate(90)])
    assert rules.FRAMES in conversions_of(moving, "x")
    turned = PIL.Image.Exif()
    turned[274] = 6
    data = encoded(COLOUR, "JPEG", exif=turned)
    assert conversions_of(data, "x") == (rules.ORIENTATION,)
    assert decode_rgb(data, "x").size == COLOUR.size
    assert conversions_of(encoded(COLOUR, "PNG", transparency=(1, 2, 3)), "x") == (rules.ALPHA,)
