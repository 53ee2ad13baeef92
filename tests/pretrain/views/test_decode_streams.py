"""pretrain/views/decode.py on a GPU, with stand-ins: streams, fake tensors, failures of the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pretrain.build_losses import open_views
from pretrain.views import decode
from pretrain.views.collate import Batch, Jpegs, View, collate
from pretrain.views.config import ViewConfig
from pretrain.views.decode import DeviceDecoder, crops_of, decode_jpegs, with_crops
from tests.pretrain.compute.fake_cuda import fake_cuda, no_waiting
from tests.pretrain.views.mixed_files import CPU, both, opened


def test_streams_wait_for_one_another(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for CUDA's: our stream is idle before each decode, and the one that trains waits for the crops."""
    events: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def synchronize(self) -> None:
            events.append(f"{self.name} idle")

        def wait_stream(self, other: Stream) -> None:
            events.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        events.append(f"on {stream.name}")
        yield
        events.append(f"off {stream.name}")

    def decoding(files: Sequence[Tensor], device: torch.device) -> list[Tensor]:
        events.append("decode")
        return decode_jpegs(files, device)

    config, images = opened(mixed)
    views = open_views(images, config, "device")
    decoder = DeviceDecoder(images, config, CPU)
    decoder._stream = Stream("ours")  # type: ignore[assignment]
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream("training"))
    monkeypatch.setattr(Tensor, "record_stream", lambda _, stream: events.append(f"kept for {stream.name}"))
    monkeypatch.setattr(decode, "decode_jpegs", decoding)
    monkeypatch.setattr(decode, "IMAGES", 2)
    decoder(collate([views[0, position] for position in (0, 1, 3)]))
    decoded = ["ours idle", "decode"] * 2
    assert events == ["on ours", *decoded, "off ours", "training waits for ours", *["kept for training"] * 6]


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
