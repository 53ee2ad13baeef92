"""Several heads trained at once are the heads that torch trains one by one; schedules; resume."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from core.distributed import Processes
from core.errors import UserError
from evaluate.common.context import RunContext
from evaluate.common.resumable import ProbeState
from evaluate.dense.heads import PixelHeads, SweepConfig, train_heads
from evaluate.dense.segment_linear.training import cross_entropies

CONTEXT = RunContext(Processes(0, 1, torch.device("cpu")), 0, seed=3)
CONFIG = SweepConfig(
    lrs=(1e-2, 3e-2), weight_decays=(0.0, 0.1), batch=4, iterations=60, warmup=20, dropout=0.0, clip=1.0
)


def batches(start: int) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(start, CONFIG.iterations):
        generator = torch.Generator().manual_seed(step)
        maps = torch.randn(4, 6, 3, 3, generator=generator)
        yield maps, (maps[:, :3].argmax(1)).to(torch.uint8)


def train(config: SweepConfig, folder: Path, stop: int = 10**9) -> PixelHeads:
    heads = PixelHeads(6, 3, config, CONTEXT.seed)

    def until(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(batches(start), start):
            if number == stop:
                raise KeyboardInterrupt
            yield batch

    state = ProbeState(folder / "unfinished.pt", "identity", CONTEXT.processes)
    train_heads(heads, config, until, cross_entropies(1), CONTEXT, state)
    return heads


def test_heads_trained_at_once_are_those_that_torch_trains_alone(tmp_path: Path) -> None:
    together = train(CONFIG, tmp_path)
    for number, settings in enumerate(CONFIG.heads()):
        alone = PixelHeads(6, 3, CONFIG, CONTEXT.seed)
        conv = nn.Conv2d(6, 3, 1)
        conv.weight.data = alone.weights[0].data[:, :, None, None].clone()
        nn.init.zeros_(conv.bias)
        model = nn.Sequential(nn.BatchNorm2d(6), conv)
        optimiser = torch.optim.AdamW(model.parameters(), weight_decay=settings["weight_decay"], betas=CONFIG.betas)
        for step, (maps, target) in enumerate(batches(0)):
            optimiser.param_groups[0]["lr"] = settings["lr"] * CONFIG.factor(step)
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(maps), target.long()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        model.eval()
        maps = next(batches(5))[0]
        torch.testing.assert_close(together(maps)[number], model(maps), atol=1e-4, rtol=1e-4)


def test_an_interrupted_training_resumes_to_the_same_heads(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    config = SweepConfig(lrs=(1e-2,), weight_decays=(0.1,), batch=4, iterations=60, warmup=0, dropout=0.5)
    whole = train(config, tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "b", stop=55)
    resumed = train(config, tmp_path / "b")
    for name, value in whole.state_dict().items():
        assert value.equal(resumed.state_dict()[name]), name
    (tmp_path / "b/unfinished.pt").write_bytes(b"not a state")
    with pytest.raises(UserError, match=r"unfinished\.pt"):
        train(config, tmp_path / "b")


def test_schedules_start_peak_and_end_where_they_should() -> None:
    after = SweepConfig(iterations=100, warmup=10, warmup_start=1e-6)
    assert after.factor(0) == pytest.approx(1e-6)
    assert after.factor(10) == 1.0
    assert after.factor(55) == pytest.approx(0.5)
    product = SweepConfig(iterations=100, warmup=10, decay="linear", decay_from="start", end=0.1)
    assert product.factor(50) == pytest.approx(0.55)
    assert product.factor(5) == pytest.approx((1e-6 + (1 - 1e-6) * 0.5) * (0.95 + 0.1 * 0.05))


@pytest.mark.parametrize(
    "wrong",
    [{"lrs": ()}, {"lrs": (0.0,)}, {"weight_decays": (-1.0,)}, {"warmup": 40_000}, {"dropout": 1.0}, {"clip": 0.0}],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SweepConfig(**wrong)  # type: ignore[arg-type]


def test_losses_computed_again_by_head_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    outputs, classes = torch.randn(2, 3, 4, 5, 6, requires_grad=True), torch.randint(0, 4, (3, 10, 12)).to(torch.uint8)
    classes[0, :3] = 255
    gradients = []
    for limit in (2**27, 0):
        monkeypatch.setattr("evaluate.dense.segment_linear.training._LOGITS", limit)
        found = cross_entropies(1)(outputs, classes, 0)
        gradients.append(torch.autograd.grad(found.sum(), outputs)[0])
    torch.testing.assert_close(*gradients)
    for head in range(2):
        logits = nn.functional.interpolate(outputs[head], (10, 12), mode="bilinear", align_corners=False)
        torch.testing.assert_close(found[head], nn.functional.cross_entropy(logits, classes.long(), ignore_index=255))
