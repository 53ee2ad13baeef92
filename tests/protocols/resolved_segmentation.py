"""A segmentation protocol as MMSegmentation gets it: MMEngine's config, pipelines, optimizer's groups, schedule."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from core.compute.shapes import shapes_only
from core.config import load_config
from core.distributed import Processes
from evaluate.tables.facts import FactSheet
from tests.protocols.parameters import flat, group_values, meta_backbone, steps_described


def resolve(name: str, sheet: FactSheet, steps: Sequence[int], overrides: Sequence[str]) -> dict[str, Any]:
    """All settings; `schedule` holds the learning rate at each of `steps`."""
    from converters.engines.openmmlab import import_mmseg

    import_mmseg()
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper

    import evaluate.segmentation.engine.data_pipeline
    import evaluate.segmentation.engine.training_extensions  # noqa: F401
    from evaluate.common.context import RunContext
    from evaluate.common.protocol import protocol_file
    from evaluate.segmentation.engine.engine_settings import engine_settings
    from evaluate.segmentation.engine.scaling import scale_to_batch
    from evaluate.segmentation.model.segmentor import build_segmentor
    from evaluate.segmentation.protocol import SegmentConfig

    config = load_config(SegmentConfig, protocol_file(name, "segmentation"), overrides)
    meant = config.schedule.processes
    config, _ = scale_to_batch(config, None, sheet.processes)
    backbone, names = meta_backbone(sheet.backbone), tuple(map(str, range(config.data.classes)))
    context = RunContext(Processes(0, sheet.processes, torch.device("cuda", 0)), workers=0, seed=0)
    settings = engine_settings(config, backbone, Path("/data"), names, context, Path("/work"))
    engine = Config(settings, format_python_code=False)
    with shapes_only(), _without_values():
        model, _ = build_segmentor(config, settings["model"], backbone, context)
        optimizer = build_optim_wrapper(model, engine.optim_wrapper).optimizer
    values = flat(engine.to_dict())
    for part in ("train", "test"):
        values |= _pipeline(settings[f"{part}_dataloader"]["dataset"]["pipeline"], part)
    values |= group_values(model, optimizer, settings["optim_wrapper"]["optimizer"]["lr"], "decode_head|aux|neck")
    values["batch"] = settings["train_dataloader"]["batch_size"] * sheet.processes
    lr, schedulers = settings["optim_wrapper"]["optimizer"]["lr"], settings["param_scheduler"]
    unit = 1.0 if not any(one.get("eta_min") for one in schedulers) else lr  # one simulation for all rates
    rates = [lr / unit * rate for rate in _rates(json.dumps(schedulers), unit, tuple(steps))]
    return values | {"processes": meant, "schedule": dict(zip(map(str, steps), rates, strict=True))}


@contextmanager
def _without_values() -> Iterator[None]:
    """Weights on the meta device have no values to draw or to compare; the engine reads numbers from `linspace`."""
    with (
        mock.patch("mmengine.model.BaseModule.init_weights"),
        mock.patch("torch.equal", return_value=True),
        mock.patch("torch.isfinite", return_value=torch.ones((), dtype=torch.bool, device="cpu")),
        mock.patch("torch.linspace", partial(torch.linspace, device="cpu")),
    ):
        yield


def _pipeline(steps: Sequence[dict[str, Any]], part: str) -> dict[str, Any]:
    from mmseg.registry import TRANSFORMS

    return steps_described([TRANSFORMS.build(dict(step)) for step in steps], part)


@cache
def _rates(schedulers: str, lr: float, steps: tuple[int, ...]) -> list[float]:
    """Rates of the schedulers as built; the engine computes each step's from the last one's."""
    from mmseg.registry import PARAM_SCHEDULERS

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    built = [PARAM_SCHEDULERS.build({**one, "optimizer": optimizer}) for one in json.loads(schedulers)]
    optimizer.step()  # torch warns of schedulers that step first
    found, done = [], 0
    for step in steps:
        for _ in range(step - done):
            for one in built:
                one.step()
        done = step
        found.append(optimizer.param_groups[0]["lr"])
    return found
