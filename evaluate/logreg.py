"""Logistic regression on a backbone's features. `python evaluate/logreg.py --ckpt runs/demo --protocol …`"""

from __future__ import annotations

import sys
import time
from pathlib import Path

# In front, and instead of this folder, whose files would be importable as `search`, `heads`, ….
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import UserError, run_entry_point
from evaluate.common.cli import add_data, evaluation_parser, parse


def main() -> None:
    """Parses, prints the plan, fits, writes result.json."""
    parser = evaluation_parser(
        "Fit logistic regressions of many strengths to a frozen backbone's features, kept on disk.",
        "python evaluate/logreg.py --ckpt runs/vit_s --data folder:/data/imagenet solver=torch",
        "logreg_dinov2",
    )
    add_data(parser)
    arguments = parse(parser)

    import numpy as np

    from converters.open import open_backbone
    from core.checkpoints import tensors_digest
    from core.config import config_digest, load_config, to_dict
    from core.distributed import init_distributed, raise_on_all_ranks, rank_zero_first
    from core.features import feature_size
    from core.result import Result, device_name, write_result
    from evaluate.common.labelled import facts, open_labelled
    from evaluate.common.protocol import conflicting_result, full_name, protocol_file, result_folder
    from evaluate.common.resumable import ProbeState
    from evaluate.probes.features.cache import cached_features
    from evaluate.probes.features.head_inputs import plan_head_inputs
    from evaluate.probes.logreg.probe import PROBE
    from evaluate.probes.logreg.protocol import LogregConfig, best_of, fit_all, solver_of

    file = arguments.config or protocol_file(arguments.protocol, "logreg")
    config = load_config(LogregConfig, file, arguments.overrides)
    protocol = full_name(config, file, PROBE.performance_keys)
    processes = init_distributed(arguments.device)
    with rank_zero_first():
        backbone = open_backbone(arguments.ckpt, arguments.network, arguments.arch, arguments.seed)
        train, val = open_labelled(config.data, config.train_limit, config.val_limit, arguments.seed)
    backbone.model.to(processes.device)
    taps = plan_head_inputs(backbone.model, config.features.transform.crop, (config.blocks,), (config.pooling,))
    feature_size(backbone.model, config.features, processes.device, taps)
    digest, data_digests = tensors_digest(backbone.model.state_dict()), [train.digest(), val.digest()]
    folder = arguments.out or result_folder(protocol, digest, arguments.seed)
    path, cs = folder / "result.json", config.cs()
    refused = ""
    if processes.is_main:
        plan = [
            f"protocol  {protocol}",
            f"backbone  {backbone.source}",
            f"input     {taps.names[0]}: {taps.width} numbers"
            + (", standardised by the training images" if config.standardise else ""),
            f"fits      {len(cs)} values of C, {cs[0]:g} … {cs[-1]:g}, by {solver_of(config, processes.device)}; at "
            f"most {config.max_iter} steps each",
            f"train     {train.name}: {len(train):,} images, {len(train.classes):,} classes",
            f"val       {val.name}: {len(val):,} images",
            f"runs on   {device_name(processes.device)}, {processes.world_size} "
            f"process{'es' if processes.world_size > 1 else ''}",
        ]
        print("\n".join(plan), flush=True)
        refused = conflicting_result(path, protocol, digest, arguments.seed, data_digests)
    raise_on_all_ranks(refused)
    if arguments.dry_run:
        return
    identity = f"{protocol} {config_digest(config)} {digest} {data_digests} {arguments.seed}"
    unfinished = ProbeState(folder / "unfinished.pt", identity, processes)
    train_features, val_features = (
        cached_features(backbone, taps, images, config.features, processes, arguments.workers)
        for images in (train, val)
    )
    absent = sorted(set(range(len(train.classes))) - set(np.unique(train_features.labels).tolist()))
    if absent:
        raise UserError(
            f"{train.name} has no image of class {train.classes[absent[0]]}; raise train_limit or take the class out"
        )
    rows = fit_all(train_features, val_features, len(train.classes), config, processes, unfinished)
    if not processes.is_main:
        return
    for broken in (*train_features.broken, *val_features.broken):
        print(f"broken, left out: {broken}")
    best = best_of(rows)
    metrics = {**{key: best[key] for key in ("top1", "top5", "mean_per_class", "C")}, "fits": rows}
    result = Result(
        protocol=protocol,
        metrics=metrics,
        backbone=backbone,
        data={"train": facts(train, train_features.broken), "val": facts(val, val_features.broken)},
        seed=arguments.seed,
        settings={
            **to_dict(config),
            "notes": [
                "top1 is that of the C which is best on the validation images",
                f"{sum(not row['converged'] for row in rows)} of {len(rows)} fits ended at max_iter",
            ],
        },
        started=time.time() - unfinished.seconds(),
        device=processes.device,
    )
    print(f"best C {best['C']:.3g}: top-1 {best['top1']:.2f}, top-5 {best['top5']:.2f}, "
          f"mean per class {best['mean_per_class']:.2f}")  # fmt: skip
    write_result(path, result)
    unfinished.remove()
    print(f"result: {path}")


if __name__ == "__main__":
    run_entry_point(main)
