"""pretrain/views/decode.py: views that the device decodes are those of the workers, within a grey level."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from core.config import load_config
from core.data.broken import BrokenImages
from core.distributed import Processes
from core.errors import UserError
from pretrain.build_losses import open_views
from pretrain.config import PretrainConfig
from pretrain.monitoring import metrics
from pretrain.monitoring.metrics import StepMetrics
from pretrain.views import decode
from pretrain.views.collate import collate
from pretrain.views.decode import DeviceDecoder, check_decoder, decode_jpegs, describe_decoding
from tests.pretrain.tiny_run import assert_equal_bits, recipe, run, run_until_killed
from tests.pretrain.views.mixed_files import CPU, both, differences, encoded, opened


def test_pixels_differ_by_a_grey_level_in_places(mixed: Path) -> None:
    """Decoders agree to the bit; the weights of the resize have 16 bits in the workers."""
    config, images = opened(mixed)
    for position in (0, 1, 3, 4):
        (pixels,) = decode_jpegs([torch.from_numpy(np.fromfile(mixed / f"{position}.jpg", dtype=np.uint8))], CPU)
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(images.image(position)))
    found = differences(*both(config, images, (0, 1, 3, 4, 0, 1)))
    assert 0 < found.max() <= 2
    assert (found > 0).float().mean() < 0.01
    assert (found > 1).float().mean() < 1e-4


def test_other_files_are_decoded_and_broken_ones_replaced_as_by_workers(mixed: Path) -> None:
    config, images = opened(mixed)
    expected, found = both(config, images, (9, 0, 5, 1, 6, 2, 7, 3, 8, 4))
    assert differences(expected, found).max() <= 2
    assert {Path(name).name for name in found.broken} == {"2.jpg", "9.jpg"}
    replaced = sum(int(index) < 5 and index != 2 for index in expected.index[[0]])
    assert found.counts == {"decoded_on_device": 4 + replaced, "decoded_on_host": 6 - replaced}
    others, same = both(config, images, (5, 6, 7, 8))
    assert differences(others, same).max() == 0
    assert same.counts == {"decoded_on_device": 0, "decoded_on_host": 4}


def test_what_the_device_refuses_is_made_anew_by_the_host(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size_of_first = (mixed / "0.jpg").stat().st_size

    def picky(files: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        if any(len(file) == size_of_first for file in files):
            raise RuntimeError("Failed to decode batch: 6")
        pixels = decode_jpegs(files, device)
        return [image[:, 1:] if image.shape[2] == 150 else image for image in pixels]  # not what the header promises

    config, images = opened(mixed)
    monkeypatch.setattr(decode, "decode_jpegs", picky)
    expected, found = both(config, images, (1, 0, 3, 1))
    places = [view.images[[1, 2]] for view in itertools.chain(*found.views.values())]
    assert all(
        torch.equal(part, view.images[[1, 2]])
        for part, view in zip(places, itertools.chain(*expected.views.values()), strict=True)
    )
    assert differences(expected, found).max() <= 2
    assert found.counts == {"decoded_on_device": 2, "decoded_on_host": 2}


def test_groups_workers_and_ranks_change_nothing(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, images = opened(image_folder, "views={global: {count: 2, size: 32}}")
    _, whole = both(config, images, range(8))
    monkeypatch.setattr(decode, "IMAGES", 3)
    monkeypatch.setattr(decode, "PIXELS", 2 * 48 * 40)
    keys = [[(3, position) for position in rank] for rank in (range(4), range(4, 8))]
    loader = DataLoader(
        open_views(images, config, "device"), batch_sampler=keys, num_workers=2, collate_fn=collate,
        multiprocessing_context="fork",
    )  # fmt: skip
    parts = list(map(DeviceDecoder(images, config, CPU), loader))
    for number in range(2):
        joined = torch.cat([part.views["global"][number].images for part in parts])
        assert torch.equal(joined, whole.views["global"][number].images)
    assert [part.counts["decoded_on_device"] for part in parts] == [4, 4]


def test_a_run_resumes_to_the_bit_and_counts_every_image(image_folder: Path, tmp_path: Path) -> None:
    config = recipe(image_folder, "decode=device", "checkpoint.log_steps=1")
    whole = run(config, tmp_path / "whole")
    run_until_killed(config, tmp_path / "killed", 5)
    assert_equal_bits(run(config, tmp_path / "killed"), whole)
    for out in ("whole", "killed"):
        lines = [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
        assert [line["decoded_on_device"] for line in lines] == [6] * 8
        assert [line["decoded_on_host"] for line in lines] == [0] * 8


def test_the_plan_counts_and_unfit_data_and_libraries_are_refused(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, images = opened(mixed)
    assert "5 of the first 10" in describe_decoding(config, images, CPU)
    assert describe_decoding(*opened(mixed, "decode=workers"), CPU) == ""
    (tmp_path / "a.png").write_bytes((mixed / "6.png").read_bytes())
    with pytest.raises(UserError, match="decode=workers"):
        describe_decoding(*opened(tmp_path), CPU)

    def missing(*_: object) -> list[Tensor]:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(decode, "decode_jpegs", missing)
    with pytest.raises(UserError, match=r"nvJPEG.*decode=workers"):
        check_decoder(CPU)


GREY = [
    "data.channels=1", "backbone={args: {in_chans: 1}, mean: [0], std: [1]}",
    "views={global: {count: 2, size: 32, photometric: [{jitter_p: 0, grey_p: 0}]}}",
]  # fmt: skip


@pytest.mark.parametrize("overrides", [["resampler=pillow"], GREY], ids=["pillow", "channels"])
def test_settings_that_need_workers_are_refused(overrides: list[str], mixed: Path) -> None:
    given = [f"data.source=folder:{mixed}", *overrides]
    load_config(PretrainConfig, None, given)
    with pytest.raises(UserError, match=overrides[0].split("=")[0]):
        load_config(PretrainConfig, None, [*given, "decode=device"])


def test_images_that_a_gpu_cannot_shrink_are_left_to_workers(tmp_path: Path) -> None:
    for width in (1440, 1441):
        (tmp_path / f"{width}.jpg").write_bytes(encoded(PIL.Image.new("RGB", (width, 9))))
    config, images = opened(tmp_path, "views={global: {count: 2, size: 16, photometric: [{blur_kernel: 9}]}}")
    _, found = both(config, images, (0, 1))
    assert found.counts == {"decoded_on_device": 1, "decoded_on_host": 1}


def test_counts_are_summed_over_steps_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "gather_objects", lambda mine: [mine, mine])
    log = StepMetrics(["global"], Processes(0, 2, CPU), BrokenImages(9, 0.1), 4, scaled=False)
    for step, counts in enumerate(({"device": 2, "host": 0}, {"device": 1, "host": 1})):
        log.add(step, {"global": torch.ones(())}, torch.ones(()), [], counts)
    assert log.report(False, False, {}).values.items() >= {"device": 6, "host": 2}.items()
    log.add(2, {"global": torch.ones(())}, torch.ones(()), [], {"device": 2, "host": 0})
    assert log.report(False, False, {}).values.items() >= {"device": 4, "host": 0}.items()
