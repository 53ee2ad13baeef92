"""nvJPEG against the workers' decoder, and its order among the streams of a GPU."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

from core.config import load_config
from core.data.base import ImageSet
from core.data.open import open_images
from core.distributed import Processes
from pretrain.build_losses import open_views
from pretrain.config import PretrainConfig
from pretrain.trainer import train
from pretrain.views.collate import Batch, collate
from pretrain.views.decode import DeviceDecoder, check_decoder, decode_jpegs

pytestmark = pytest.mark.gpu

GPU = torch.device("cuda")
CHANNELS = 3
"""Largest difference of R, G and B between two decoders of full-size colours: both round each component of an exact
inverse DCT, so Y, Cb and Cr differ by one level at most. B = Y + 1.772 Cb then differs by 2.8 before it is rounded, R
and G by less."""
BRIGHTNESS = 2
"""The same of 0.299 R + 0.587 G + 0.114 B, which is Y again: one level, and R, G and B rounded twice. It holds for
smaller colours too, between which decoders may interpolate as they like, where no channel was clamped."""
LUMA = np.array([0.299, 0.587, 0.114])
VIEWS = 8
"""Largest difference of resized views: absolute bicubic weights sum to 1.25 at most, along each axis, and each pass
rounds: (3 · 1.25 + 1) · 1.25 + 1, and one for the 16 bits of the workers' weights."""


def photographs(folder: Path, subsampling: str) -> list[bytes]:
    found = []
    for number, pixels in enumerate(load_sample_images().images):
        stream = io.BytesIO()
        PIL.Image.fromarray(pixels).save(stream, "JPEG", quality=90, subsampling=subsampling)
        found.append(stream.getvalue())
        (folder / f"{number}.jpg").write_bytes(found[-1])
    return found


def opened(folder: Path, *overrides: str) -> tuple[PretrainConfig, ImageSet]:
    given = [f"data.source=folder:{folder}", "decode=device", "views.global.size=96", "batch=2", *overrides]
    config = load_config(PretrainConfig, None, given)
    return config, open_images(config.data, "pretrain", config.seed)


def left_to_device(config: PretrainConfig, images: ImageSet) -> Batch:
    views = open_views(images, config, "device")
    return collate([views[epoch, position] for epoch in range(8) for position in range(len(images))])


def images_of(batch: Batch) -> list[Tensor]:
    return [view.images for view in itertools.chain(*batch.views.values())]


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_pixels_are_pillows_within_the_rounding_of_the_inverse_dct(subsampling: str, tmp_path: Path) -> None:
    check_decoder(GPU)
    for data in photographs(tmp_path, subsampling):
        (found,) = decode_jpegs([torch.frombuffer(bytearray(data), dtype=torch.uint8)], GPU)
        pixels = found.permute(1, 2, 0).cpu().numpy().astype(float)
        expected = np.asarray(PIL.Image.open(io.BytesIO(data))).astype(float)
        if subsampling == "4:4:4":
            assert np.abs(pixels - expected).max() <= CHANNELS
        whole = np.all((pixels > 0) & (pixels < 255) & (expected > 0) & (expected < 255), axis=2)
        assert whole.mean() > 0.5
        assert np.abs((pixels - expected) @ LUMA)[whole].max() <= BRIGHTNESS


def test_views_are_those_of_the_workers(tmp_path: Path) -> None:
    photographs(tmp_path, "4:4:4")
    config, images = opened(tmp_path)
    by_workers = open_views(images, config)
    expected = collate([by_workers[epoch, position] for epoch in range(8) for position in range(len(images))])
    found = DeviceDecoder(images, config, GPU)(left_to_device(config, images))
    assert found.counts == {"decoded_on_device": 16, "decoded_on_host": 0}
    for one, other in zip(images_of(expected), images_of(found), strict=True):
        assert other.device.type == "cuda"
        assert (one.int() - other.cpu().int()).abs().max() <= VIEWS


def test_decoding_neither_disturbs_the_training_nor_waits_for_it(tmp_path: Path) -> None:
    photographs(tmp_path, "4:2:0")
    config, images = opened(tmp_path)
    decoder, batch = DeviceDecoder(images, config, GPU), left_to_device(config, images)
    expected = [view.clone() for view in images_of(decoder(batch))]
    torch.cuda.synchronize()
    for _ in range(3):
        busy = [torch.ones(2**20, dtype=torch.uint8, device=GPU) for _ in range(64)]
        torch.cuda._sleep(2**30)  # half a second or so
        sums = torch.stack([part.sum() for part in busy])
        del busy  # still to be read, though the host has let go of it
        found = images_of(decoder(batch))
        assert not torch.cuda.current_stream().query()
        copies = [view.clone() for view in found]
        del found
        torch.cuda.synchronize()
        assert sums.tolist() == [2**20] * 64
        for one, other in zip(expected, copies, strict=True):
            assert torch.equal(one, other)


def test_a_run_decodes_on_the_gpu(image_folder: Path, tmp_path: Path) -> None:
    config, images = opened(
        image_folder, "epochs=1", "batch=6", "schedule.warmup_epochs=0", "backbone.name=resnet18",
        "views.global={size: 32, photometric: [{blur_kernel: 9}]}", "projector.widths=[32, 16]",
        "predictor.widths=[32, 16]", "checkpoint.log_steps=1",
    )  # fmt: skip
    train(config, tmp_path, images, Processes(0, 1, GPU), 2)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["decoded_on_device"], line["decoded_on_host"]) for line in lines] == [(6, 0), (6, 0)]
