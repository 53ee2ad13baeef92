"""core/data/bands.py: images of other numbers of channels, from arrays and TIFFs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from converters.open import open_backbone
from converters.settings.given import Given
from core.backbones import BackboneConfig
from core.config import load_config
from core.data.bands import BandImage, decode_bands
from core.data.open import DataConfig, open_images
from core.errors import BrokenImage, UserError
from core.features import EvalTransformConfig, eval_crop, normalised
from pretrain.config import PretrainConfig

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 30, 5), dtype=np.uint8)


def test_arrays_and_pages_are_the_same_image(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    pages = [PIL.Image.fromarray(PIXELS[:, :, band]) for band in range(5)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    for name in ("a.npy", "a.tif"):
        image = decode_bands(tmp_path / name, 5)
        assert (image.width, image.height) == (30, 20)
        assert np.array_equal(np.asarray(image), PIXELS)
        with pytest.raises(BrokenImage, match="5 channels, not 4"):
            decode_bands(tmp_path / name, 4)


def test_wider_values(tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", PIXELS.astype(np.uint16) * 256 + 7)
    np.save(tmp_path / "share.npy", PIXELS / 255)
    for name in ("wide.npy", "share.npy"):
        assert np.array_equal(np.asarray(decode_bands(tmp_path / name, 5)), PIXELS)
    np.save(tmp_path / "nan.npy", np.full((4, 4, 5), np.nan))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in ("nan.npy", "objects.npy", "missing.npy"):
        with pytest.raises(BrokenImage, match=name):
            decode_bands(tmp_path / name, 5)


def test_three_channels_are_cropped_and_resized_as_rgb() -> None:
    rgb = PIL.Image.fromarray(PIXELS[:, :, :3])
    bands = BandImage(tuple(rgb.split()))
    transform = EvalTransformConfig(16, 12)
    assert np.array_equal(eval_crop(bands, transform), eval_crop(rgb, transform))
    assert np.array_equal(
        np.asarray(bands.crop((2, 3, 12, 13)).transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)),
        np.asarray(rgb.crop((2, 3, 12, 13)).transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)),
    )


def test_a_folder_of_arrays(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            np.save(tmp_path / split / label / "1.npy", PIXELS)
    images = open_images(DataConfig(f"folder:{tmp_path}", channels=5), "train", 0)
    assert (len(images), images.classes) == (2, ("a", "b"))
    pixels = torch.from_numpy(np.stack([np.asarray(images.image(0))]))
    five = BackboneConfig("resnet18", {"in_chans": 5}, mean=(0.5,) * 5, std=(0.2,) * 5)
    expected = torch.from_numpy((PIXELS[..., 4] / 255 - 0.5) / 0.2).float()
    torch.testing.assert_close(normalised(pixels, five)[0, 4], expected)
    with pytest.raises(UserError, match=r"data\.channels"):
        normalised(pixels, BackboneConfig())
    with pytest.raises(UserError, match="no images"):
        open_images(DataConfig(f"folder:{tmp_path}"), "pretrain", 0)
    with pytest.raises(ValueError, match="channels"):
        DataConfig("scenes", channels=4)


def test_the_first_convolution_is_adapted_on_request() -> None:
    rgb = open_backbone("timm:resnet18(channels=[4,4,4,4])")
    for channels in (1, 5):
        given = Given((0.5,) * channels, (0.2,) * channels, in_chans=channels)
        found = open_backbone("timm:resnet18(channels=[4,4,4,4])", given=given)
        assert found.config.in_chans == channels
        assert "conv1 adapted" in found.source
        grey = torch.rand(1, 1, 32, 32).expand(-1, 3, -1, -1)  # the same value in each channel
        again = grey[:, :1].expand(-1, channels, -1, -1)
        theirs, ours = rgb.model.get_submodule("conv1"), found.model.get_submodule("conv1")
        if channels == 1:
            torch.testing.assert_close(ours(again), theirs(grey), rtol=1e-4, atol=1e-5)
        assert ours(again).shape == theirs(grey).shape
    with pytest.raises(UserError, match="--in-chans"):
        open_backbone("timm:resnet18(channels=[4,4,4,4])", given=Given(in_chans=4))


def test_pretraining_needs_equal_channels_and_no_colours() -> None:
    five = ["backbone.args={in_chans: 5}", "backbone.mean=[0.5,0.5,0.5,0.5,0.5]", "backbone.std=[1,1,1,1,1]"]
    plain = "views={global: {count: 2, photometric: [{jitter_p: 0, grey_p: 0}]}}"
    with pytest.raises(UserError, match=r"data\.channels"):
        load_config(PretrainConfig, None, [*five, plain])
    with pytest.raises(UserError, match="photometric"):
        load_config(PretrainConfig, None, [*five, "data.channels=5"])
    assert load_config(PretrainConfig, None, [*five, "data.channels=5", plain]).backbone.in_chans == 5


def test_a_damaged_header_is_a_broken_image(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    content = bytearray((tmp_path / "a.npy").read_bytes())
    content[10:20] = b"{'descr': ("
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(BrokenImage, match=r"a\.npy"):
        decode_bands(tmp_path / "a.npy", 5)
