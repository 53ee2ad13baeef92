"""pretrain/views/decode.py: views that the device decodes are those of the workers, within a grey level."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader

from core.config import load_config
from core.data.base import ImageSet
from core.data.broken import BrokenImages
from core.data.open import open_images
from core.distributed import Processes
from core.errors import UserError
from pretrain.build_losses import open_views
from pretrain.config import PretrainConfig
from pretrain.method import Method
from pretrain.monitoring import metrics
from pretrain.monitoring.metrics import StepMetrics
from pretrain.views import decode
from pretrain.views.collate import Batch, Jpegs, View, collate
from pretrain.views.config import ViewConfig
from pretrain.views.decode import DeviceDecoder, check_decoder, crops_of, decode_jpegs, describe_decoding, with_crops
from tests.pretrain.compute.fake_cuda import fake_cuda, no_waiting
from tests.pretrain.tiny_run import assert_equal_bits, recipe, run

CPU = torch.device("cpu")
VIEWS = (
    "views={global: {count: 2, size: 96}, local: {count: 1, size: 40, area: [0.05, 0.25], photometric: [{}]}, "
    "cutout: {count: 1, size: 64, transform: cutout}, part: {count: 2, size: 64, placement: apart}}"
)


def encoded(image: PIL.Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def damaged(data: bytes) -> bytes:
    """With a table of codes that no decoder takes, behind a sound header."""
    table = data.index(b"\xff\xc4") + 5
    return data[:table] + b"\xff" * 16 + data[table + 16 :]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs in many forms: 5 JPEGs for the device, one of them damaged; 5 other files, one truncated."""
    folder = tmp_path_factory.mktemp("mixed")
    first, second = (PIL.Image.fromarray(pixels) for pixels in load_sample_images().images)
    small = second.resize((150, 211))
    files = {
        "0.jpg": encoded(first, quality=90),
        "1.jpg": encoded(second, subsampling="4:4:4"),
        "2.jpg": damaged(encoded(first)),
        "3.jpg": encoded(small, subsampling="4:2:2"),
        "4.jpg": encoded(small),
        "5.jpg": encoded(first, progressive=True),
        "6.png": encoded(small, "PNG"),
        "7.jpg": encoded(small.convert("L")),
        "8.jpg": encoded(small.convert("CMYK")),
        "9.jpg": encoded(first)[:20_000],
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def opened(folder: Path, *overrides: str) -> tuple[PretrainConfig, ImageSet]:
    given = [f"data.source=folder:{folder}", "decode=device", VIEWS, "batch=4", *overrides]
    config = load_config(PretrainConfig, None, given)
    return config, open_images(config.data, "pretrain", config.seed)


def both(config: PretrainConfig, images: ImageSet, positions: Sequence[int]) -> tuple[Batch, Batch]:
    """A batch of the workers, and the same of the device."""
    by_workers = open_views(images, config)
    left = open_views(images, config, "device")
    encoded = collate([left[3, position] for position in positions])
    return collate([by_workers[3, position] for position in positions]), DeviceDecoder(images, config, CPU)(encoded)


def differences(one: Batch, other: Batch) -> Tensor:
    """Of all pixels, where all else must be equal."""
    assert torch.equal(one.index, other.index)
    assert set(one.broken) == set(other.broken)
    assert other.jpegs is None
    apart = []
    for mine, others in zip(itertools.chain(*one.views.values()), itertools.chain(*other.views.values()), strict=True):
        assert mine.images.shape == others.images.shape
        assert mine.images.dtype == others.images.dtype == torch.uint8
        assert mine.parameters.keys() == others.parameters.keys()
        for key, values in mine.parameters.items():
            assert np.array_equal(values, others.parameters[key]), key
        apart.append((mine.images.int() - others.images.int()).abs().flatten())
    return torch.cat(apart)


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
    expected, found = both(config, images, range(10))
    assert differences(expected, found).max() <= 2
    assert {Path(name).name for name in found.broken} == {"2.jpg", "9.jpg"}
    replaced = sum(int(index) < 5 and index != 2 for index in expected.index[[9]])
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


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), RuntimeError("CUDA error: an illegal memory access")])
def test_failures_of_the_device_itself_end_the_run(
    error: Exception, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> list[Tensor]:
        raise error

    config, images = opened(mixed)
    monkeypatch.setattr(decode, "decode_jpegs", failing)
    with pytest.raises(type(error)):
        both(config, images, (0, 1))


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


class Killed(BaseException):
    """Stands for the power going off between two steps."""


def test_a_run_resumes_to_the_bit_and_counts_every_image(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(image_folder, "decode=device", "checkpoint.log_steps=1")
    whole = run(config, tmp_path / "whole")
    backward, done = Method.backward, []

    def dying(self: Method, *arguments: Any) -> Any:
        if len(done) == 5:
            raise Killed
        done.append(1)
        return backward(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Method, "backward", dying)
        with pytest.raises(Killed):
            run(config, tmp_path / "killed")
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


def test_counts_are_summed_over_steps_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "gather_objects", lambda mine: [mine, mine])
    log = StepMetrics(["global"], Processes(0, 2, CPU), BrokenImages(9, 0.1), 4, scaled=False)
    for step, counts in enumerate(({"device": 2, "host": 0}, {"device": 1, "host": 1})):
        log.add(step, {"global": torch.ones(())}, [], counts)
    assert log.report(False, False, {}).values.items() >= {"device": 6, "host": 2}.items()
    log.add(2, {"global": torch.ones(())}, [], {"device": 2, "host": 0})
    assert log.report(False, False, {}).values.items() >= {"device": 4, "host": 0}.items()


def test_crops_on_a_gpu_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but decoding itself, on fake tensors: two images of the device and one of a worker."""
    config = {"global": ViewConfig(count=1, size=32)}
    boxes = np.array([[3, 4, 50, 40], [0, 0, 20, 20], [10, 0, 64, 48]], dtype=np.float32)
    by_worker = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    jpegs = Jpegs(
        torch.zeros(2, dtype=torch.uint8), np.array([1, 2]), np.array([0, 2]), np.full((2, 2), 80), [(0, 0)] * 2
    )
    batch = Batch({"global": [View(by_worker, {"box": boxes})]}, torch.arange(3), [], jpegs)
    device = torch.device("cuda")
    with fake_cuda(monkeypatch):
        decoded = {place: torch.zeros(3, 80, 80, dtype=torch.uint8, device=device) for place in (0, 2)}
        with no_waiting():
            crops = crops_of(decoded, batch.views, config)
            done = with_crops(batch, [([0, 2], crops), ([1], {"global": [by_worker]})], device)
    images = done.views["global"][0].images
    assert (images.device.type, images.dtype, images.shape) == ("cuda", torch.uint8, (3, 3, 32, 32))
