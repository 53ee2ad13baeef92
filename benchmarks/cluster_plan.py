"""A recipe on many hosts, computed and not measured: data read, gradients exchanged, state saved.

`python benchmarks/cluster_plan.py` prints the table of docs/cluster.md, for ViT-L on 4 × 8 H100 and ImageNet-22k.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.project import CONFIGS


@dataclass(frozen=True)
class Cluster:
    """Hosts and data; the defaults are what the page assumes."""

    hosts: int = 4
    """Hosts."""
    gpus: int = 8
    """GPUs of a host."""
    flops: float = 989e12
    """Dense bf16 operations of a GPU per second: an H100 SXM's, by its data sheet."""
    used: float = 0.4
    """Share of them that training reaches."""
    link: float = 50e9
    """Bytes per second that a GPU sends to other hosts: a 400 Gb/s adapter each."""
    link_used: float = 0.8
    """Share of them that an all-reduce reaches."""
    disk: float = 2e9
    """Bytes per second that one process writes to the shared disk."""
    images: int = 14_197_122
    """Images of ImageNet-22k (its release of 2011)."""
    image_bytes: float = 1.31e12 / 14_197_122
    """Bytes of an image: its archives have 1.31 TB."""
    image_seconds: float = 2.216e-3
    """Seconds of one core for decoding and five crops of an image (docs/performance.md)."""


@dataclass(frozen=True)
class Work:
    """A recipe's network and views."""

    backbone: int
    """Parameters of the backbone."""
    heads: int
    """Parameters of projector and predictors."""
    projector: int
    """Those of the projector, which the target network has too."""
    forward: dict[int, float]
    """Operations of a forward pass of one image, by its size in pixels."""
    views: tuple[int, ...]
    """Size of each view of an image."""
    targets: tuple[int, ...]
    """Size of each view that the target network sees."""
    last: tuple[int, ...]
    """Sizes of the views of the last backward pass."""
    batch: int
    """Images of a step, on all GPUs."""


def table(work: Work, cluster: Cluster) -> list[tuple[str, str, str]]:
    """Rows of the plan: what, how it is computed, and its value."""
    world = cluster.hosts * cluster.gpus
    trained = sum(work.forward[size] for size in work.views)
    looked_at = sum(work.forward[size] for size in work.targets)
    operations = 3 * trained + looked_at
    speed = cluster.flops * cluster.used
    step = work.batch / world * operations / speed
    images = work.batch / step
    backward = work.batch / world * 2 * trained / speed
    last = work.batch / world * 2 * sum(work.forward[size] for size in work.last) / speed
    online = work.backbone + work.heads
    sent = 2 * (world - 1) / world * 4 * online / cluster.gpus
    exchange = sent / (cluster.link * cluster.link_used)
    state = 4 * (3 * online + work.backbone + work.projector)
    saving = state / cluster.disk
    per_host = images / cluster.hosts
    link = f"{cluster.link_used:.0%} of {cluster.link / 1e9:g} GB/s"
    return [
        ("parameters", "backbone + projector and predictors", f"{work.backbone / 1e6:.0f} + {work.heads / 1e6:.0f} M"),
        ("operations per image", "3 × forward of all views + forward of the target's", f"{operations / 1e12:.2f} T"),
        ("step", f"{work.batch / world:g} images × operations / ({cluster.used:.0%} of {cluster.flops / 1e12:.0f} T/s)",
         f"{1e3 * step:.0f} ms"),
        ("speed", "batch / step", f"{images:,.0f} images/s, {per_host:,.0f} per host"),
        ("epoch", f"{cluster.images / 1e6:.1f} M images / speed", f"{cluster.images / images / 3600:.2f} h"),
        ("bytes read", f"speed × {cluster.image_bytes / 1e3:.0f} kB",
         f"{per_host * cluster.image_bytes / 1e6:.0f} MB/s per host, "
         f"{images * cluster.image_bytes / 1e9:.2f} GB/s in all"),
        ("loader cores", f"speed × {1e3 * cluster.image_seconds:.1f} ms (a core of our test machine)",
         f"{per_host / cluster.gpus * cluster.image_seconds:.1f} per GPU"),
        ("gradients", f"4 bytes × parameters; ring over {world} GPUs, whose hosts have {cluster.gpus} adapters",
         f"{4 * online / 1e9:.2f} GB, {sent / 1e9:.2f} GB through each adapter"),
        ("all-reduce", f"bytes / ({link})", f"{1e3 * exchange:.1f} ms"),
        ("backward passes", "2 × forward of all views", f"{1e3 * backward:.0f} ms"),
        ("last backward pass", "2 × forward of its views, in which the exchange is hidden", f"{1e3 * last:.0f} ms"),
        ("exchange not hidden", "all-reduce − last backward pass, 0 at least, / step",
         f"{max(0.0, exchange - last) / step:.1%} of a step"),
        ("state", "4 bytes × (parameters + two moments, + target network)", f"{state / 1e9:.2f} GB"),
        ("saving it", f"bytes / ({cluster.disk / 1e9:g} GB/s), every 30 minutes",
         f"{saving:.1f} s, {saving / 1800:.2%} of the time"),
    ]  # fmt: skip


def work_of(recipe: Path, overrides: Sequence[str]) -> Work:
    """What a recipe asks for; its backbone is built without memory."""
    import timm
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from core.config import load_config
    from pretrain.config import PretrainConfig

    config = load_config(PretrainConfig, recipe, list(overrides))
    sizes = sorted({view.size for view in config.views.values()})
    forward: dict[int, float] = {}
    for size in sizes:
        with torch.device("meta"):
            model: Any = timm.create_model(config.backbone.name, num_classes=0, img_size=size)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model(torch.empty(1, 3, size, size))
        forward[size] = float(counter.get_total_flops())
    width = int(model.num_features)
    backbone = sum(parameter.numel() for parameter in model.parameters())
    projector = _mlp(width, config.projector.widths)
    predictors = len(config.views) if config.predictors == "per_view" else 1
    heads = projector + predictors * _mlp(config.projector.widths[-1], config.predictor.widths)
    views = tuple(view.size for view in config.views.values() for _ in range(view.count))
    targets = tuple(view.size for name, view in config.views.items() if name == "global" for _ in range(view.count))
    return Work(backbone, heads, projector, forward, views, targets, views[-1:], config.batch)


def _mlp(width: int, widths: Sequence[int]) -> int:
    """Parameters of linear layers with the norms between them."""
    sizes = [width, *widths]
    layers = sum(before * after for before, after in itertools.pairwise(sizes))
    return layers + 2 * sum(widths[:-1])


def markdown(rows: Sequence[tuple[str, str, str]]) -> str:
    """The rows as a table."""
    lines = ["| what | computed as | value |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Plan a recipe on many hosts: data, exchange of gradients, state.")
    parser.add_argument("--config", type=Path, default=CONFIGS / "pretrain/vit_b_byol_multitask.yaml")
    parser.add_argument("--hosts", type=int, default=Cluster.hosts, metavar="N", help="hosts (default %(default)s)")
    parser.add_argument(
        "--gpus", type=int, default=Cluster.gpus, metavar="N", help="GPUs of a host (default %(default)s)"
    )
    parser.add_argument(
        "--link", type=float, default=Cluster.link, metavar="BYTES/S",
        help="bytes per second from a GPU to other hosts (default %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--used", type=float, default=Cluster.used, help="share of the GPU's speed (default %(default)s)"
    )
    parser.add_argument(
        "--images", type=int, default=Cluster.images, metavar="N", help="images (default ImageNet-22k's)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings (default: ViT-L and a batch of 2,048)"
    )
    given = parser.parse_args()
    overrides = given.overrides or ["backbone.name=vit_large_patch16_224", "batch=2048"]
    cluster = Cluster(hosts=given.hosts, gpus=given.gpus, link=given.link, used=given.used, images=given.images)
    print(markdown(table(work_of(given.config, overrides), cluster)))


if __name__ == "__main__":
    main()
