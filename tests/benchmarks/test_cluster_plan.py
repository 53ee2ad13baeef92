"""benchmarks/cluster_plan.py: its counts against closed forms, its exchange against a simulated ring, its page."""

from __future__ import annotations

import re

import pytest

from benchmarks.cluster_plan import Cluster, Work, markdown, table, work_of
from core.project import CONFIGS, ROOT

VIT_L = ["backbone.name=vit_large_patch16_224", "batch=2048"]


@pytest.fixture(scope="module")
def work() -> Work:
    return work_of(CONFIGS / "pretrain/vit_b_byol_multitask.yaml", VIT_L)


def test_counts_are_those_of_the_closed_forms(work: Work) -> None:
    width, layers = 1024, 24
    for size, operations in work.forward.items():
        patches = (size // 16) ** 2
        tokens = patches + 1
        blocks = layers * (12 * width**2 * tokens + 2 * tokens**2 * width)
        assert operations == pytest.approx(2 * (blocks + patches * 768 * width), rel=1e-3)
    block = 12 * width**2 + 13 * width  # products, their biases, two norms
    assert work.backbone == pytest.approx(layers * block + (768 + 197 + 4) * width, rel=1e-3)
    projector = 1024 * 4096 + 4096 * 4096 + 4096 * 256
    assert work.projector == pytest.approx(projector, rel=1e-3)
    assert work.heads == pytest.approx(projector + 3 * 2 * 256 * 4096, rel=2e-3)
    assert (sorted(work.views), work.targets) == ([96, 96, 224, 224, 224], (224, 224))


def test_the_exchange_is_that_of_a_ring() -> None:
    """Bytes that leave a host by its links, counted message by message."""
    hosts, gpus, parameters = 2, 2, 800
    world, rings = hosts * gpus, gpus
    part = 4 * parameters / rings / world
    leaving = 0.0
    for _ in range(rings):
        for _ in range(2 * (world - 1)):  # reduce-scatter, then all-gather: each GPU sends one part to the next
            leaving += sum(part for gpu in range(world) if gpu // gpus == 0 and (gpu + 1) % world // gpus != 0)
    plain = Work(parameters, 0, 0, {32: 1.0}, (32,), (), (32,), 8)
    rows = {
        what: value
        for what, _, value in table(plain, Cluster(hosts=hosts, gpus=gpus, link=leaving / gpus, link_used=1.0))
    }
    assert rows["all-reduce"] == "1000.0 ms"


def test_the_page_holds_the_plan(work: Work) -> None:
    page = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- plan: start -->\n(.*)\n<!-- plan: end -->", page, re.DOTALL)
    assert found
    assert found[1] == markdown(table(work, Cluster()))
