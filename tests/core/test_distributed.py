"""core/distributed.py and core/compute/sync_norm.py: alone they change nothing, together they equal one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from core.compute.sync_norm import GlooBatchNorm, synchronise_norms
from core.distributed import (
    average_gradients,
    gather_objects,
    gather_rows,
    in_group,
    init_distributed,
    sum_over_ranks,
)
from core.errors import UserError
from tests.torchrun import torchrun


def test_alone_everything_is_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    processes = init_distributed("cpu")
    assert (processes.rank, processes.world_size, processes.is_main) == (0, 1, True)
    assert not in_group()
    rows = torch.randn(3, 2, requires_grad=True)
    assert torch.equal(gather_rows(rows), rows)
    assert not gather_rows(rows).requires_grad
    assert torch.equal(sum_over_ranks(rows), rows)
    assert gather_objects("x") == ["x"]
    layer = nn.Linear(2, 2)
    average_gradients(layer.parameters())
    assert layer.weight.grad is None


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "nonsense:1", "meta"])
def test_devices_that_are_not_there(device: str) -> None:
    with pytest.raises(UserError, match=device):
        init_distributed(device)


def test_half_set_torchrun_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match=r"\bRANK\b.*\bWORLD_SIZE\b"):
        init_distributed("cpu")


def test_two_ranks(tmp_path: Path) -> None:
    done = torchrun(Path(__file__).parent / "collectives_of_a_rank.py", str(tmp_path))
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for number, rank in enumerate(ranks):
        assert rank["gathered"].tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]
        assert rank["sum"].item() == 3
        assert rank["objects"] == [{"rank": 0}, {"rank": 1}]
        assert rank["refused"] == "no such folder"  # rank 0's sentence on both
        assert rank["gradient"].tolist() == [[2.0, 2.0]]  # mean of 1 and 3
        assert rank["one_sided"].tolist() == [2.5, 2.5]  # mean of nothing and 5
        assert rank["broadcast"].item() == 7  # rank 0's value
        assert rank["after_an_error"]
        assert rank["order"] == ["rank 0 first", "rank 1"][: number + 1]
    norm = nn.BatchNorm1d(3, dtype=torch.float64)
    joined = ranks[0]["all_inputs"].requires_grad_()
    (norm(joined) * ranks[0]["weights"]).sum().backward()
    for number, rank in enumerate(ranks):
        part = slice(4 * number, 4 * number + 4)
        torch.testing.assert_close(rank["input_gradient"], joined.grad[part], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(rank["running_mean"], norm.running_mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(rank["running_var"], norm.running_var, rtol=1e-12, atol=1e-12)


def test_synchronised_norm_keeps_the_activation_that_timms_norm_holds() -> None:
    from timm.layers import BatchNormAct2d

    plain, other = (nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4)) for _ in range(2))
    other.load_state_dict(plain.state_dict())
    synchronised = synchronise_norms(other, torch.device("cpu"))
    assert synchronised.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(plain(images), synchronised(images))
    assert float(synchronised(images).detach().min()) == 0.0  # ReLU


def test_synchronised_norm_alone_is_plain_batch_norm() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    other.load_state_dict(plain.state_dict())
    synchronised = synchronise_norms(other, torch.device("cpu"))
    assert isinstance(synchronised[1], GlooBatchNorm)
    assert synchronised.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(plain(images), synchronised(images))
    assert torch.equal(plain[1].running_var, synchronised[1].running_var)
    assert torch.equal(plain.eval()(images), synchronised.eval()(images))
