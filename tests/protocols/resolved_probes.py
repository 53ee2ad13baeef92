"""A probe's protocol as it runs: transforms compared with torchvision's, heads and optimizers as built, schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize
from torchvision.transforms import functional as reference

from core.config import load_config
from core.data.crop import draw_crop, resized_crop
from core.data.order import batches_per_epoch
from core.distributed import Processes
from core.features import EvalTransformConfig, eval_crop
from core.schedules import learning_rate_factor
from evaluate.common.context import RunContext
from evaluate.common.protocol import protocol_file
from evaluate.common.registry import find_description
from evaluate.tables.facts import FactSheet
from tests.protocols.parameters import group_values, meta_backbone

IMAGENET = 1_281_167
LISTED = {0.01: 12_811, 0.1: 128_116}
"""Images in SimCLR's lists of 1 % and 10 % of ImageNet."""
MODES = ("bilinear", "bicubic")
_NOISE = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (270, 300, 3), dtype=np.uint8))


def resolve(name: str, kind: str, sheet: FactSheet, steps: Sequence[int], overrides: Sequence[str]) -> dict[str, Any]:
    """All settings; `schedule` holds the share of the peak learning rate at each of `steps`, on ImageNet's images."""
    config = load_config(find_description(kind).config_class(), protocol_file(name, kind), overrides)
    features = config.features
    values: dict[str, Any] = {
        "test.resize": features.transform.resize, "test.crop": features.transform.crop,
        "test.interpolation": _test_interpolation(features.transform), "features.precision": features.precision,
    }  # fmt: skip
    if hasattr(config, "augment"):
        augment = config.augment
        values |= {
            "train.area": list(augment.area), "train.ratio": list(augment.ratio), "train.flip": augment.flip,
            "train.interpolation": _crop_interpolation(augment), "train.size": features.transform.crop,
        }  # fmt: skip
    for key in ("batch", "epochs", "standardise", "ks", "temperature", "shots", "share", "report", "last_batch",
                "max_iter", "tol", "choice_share", "log10_c", "count", "sync_norm", "head_lrs", "views"):  # fmt: skip
        if hasattr(config, key):
            values[key] = getattr(config, key)
    if kind == "knn":
        model = meta_backbone(sheet.backbone).model
        from core.backbones import family_of

        values["pooling"] = family_of(model).resolve_pooling(model, features.pooling)
        values["vote"] = _vote(config.temperature)
    if kind in ("linear", "logreg", "transfer"):
        values["inputs"] = _inputs(config, sheet)
    if kind == "linear":
        values |= _heads(config)
    if kind == "finetune":
        values |= _network(config, sheet)
    if kind in ("linear", "finetune"):
        images = LISTED.get(getattr(config, "share", None) or 1.0, IMAGENET)
        per_epoch = batches_per_epoch(images, config.batch, config.last_batch, sheet.processes)
        per_epoch = getattr(config, "epoch_steps", None) or per_epoch
        factors = [learning_rate_factor(config.schedule, step, per_epoch, config.epochs) for step in steps]
        values |= {"steps_per_epoch": per_epoch, "schedule": dict(zip(map(str, steps), factors, strict=True))}
    if kind == "transfer":
        values |= {"rates": config.lrs}
    return values


def _test_interpolation(transform: EvalTransformConfig) -> str:
    ours = eval_crop(_NOISE, transform)
    return _same(lambda mode: Compose([Resize(transform.resize, mode), CenterCrop(transform.crop)])(_NOISE), ours)


def _crop_interpolation(augment: Any) -> str:
    left, top, width, height = draw_crop(300, 270, augment.area, augment.ratio, np.random.default_rng(1))
    ours = resized_crop(_NOISE, 64, augment.area, augment.ratio, np.random.default_rng(1), augment.interpolation)
    return _same(
        lambda mode: reference.resized_crop(_NOISE, top, left, height, width, [64, 64], mode), np.asarray(ours)
    )


def _same(compose: Any, ours: np.ndarray) -> str:
    """The interpolation with which torchvision computes the same pixels."""
    found = [mode for mode in MODES if np.array_equal(np.asarray(compose(InterpolationMode(mode))), ours)]
    return found[0] if len(found) == 1 else "none of torchvision's"


def _vote(temperature: float) -> str:
    """`exp(cosine / temperature)` if the k-NN vote ranks classes by it, on random neighbours."""
    from evaluate.probes.knn.vote import weighted_hits

    rng = np.random.default_rng(0)
    cosines, labels = np.sort(rng.uniform(-1, 1, (200, 20)))[:, ::-1], rng.integers(0, 4, (200, 20))
    votes = np.stack([(np.exp(cosines / temperature) * (labels == label)).sum(1) for label in range(4)], 1)
    hits = weighted_hits(cosines, labels, votes.argmax(1), 4, 20, temperature)
    return "exp(cosine / temperature)" if hits.all() else "another vote"


def _inputs(config: Any, sheet: FactSheet) -> list[str]:
    from evaluate.probes.features.head_inputs import plan_head_inputs

    model = meta_backbone(sheet.backbone).model
    crop = config.features.transform.crop
    return list(plan_head_inputs(model, crop, config.blocks, config.poolings).names)


def _heads(config: Any) -> dict[str, Any]:
    from evaluate.probes.features.standardise import build_standardiser
    from evaluate.probes.linear.head_grid import HeadGrid

    cpu = torch.device("cpu")
    grid = HeadGrid([(0, 4)], config.used_lrs(), 3, config.optim, 0, cpu)
    values: dict[str, Any] = {
        "rates": grid._rates.tolist(), "optimizer": grid.optim.name, "momentum": grid.optim.momentum,
        "decay.weights": grid.optim.weight_decay, "decay.biases": 0.0,
    }  # fmt: skip
    if grid.optim.name == "lars":
        values |= {"trust": grid.optim.trust, "adapt_bias": grid.optim.adapt_bias}
    if config.standardise == "batch_norm":
        norm: Any = build_standardiser("batch_norm", None, 4, cpu)
        values |= {"batch_norm.eps": norm.epsilon, "batch_norm.momentum": norm.momentum}
    return values


def _network(config: Any, sheet: FactSheet) -> dict[str, Any]:
    from evaluate.probes.finetune.training import Network

    backbone = meta_backbone(sheet.backbone)
    context = RunContext(Processes(0, 1, torch.device("cpu")), workers=0, seed=0)
    network = Network(backbone, dict(backbone.model.state_dict()), 1000, config, config.rates()[0], context)
    network.set_rate(1.0)
    both = torch.nn.ModuleDict({"backbone": network.model, "head": network.head})
    lr = config.rates()[0][0]
    return group_values(both, network.optimiser, lr, "head") | {"rates": [list(pair) for pair in config.rates()]}
