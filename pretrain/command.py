"""Command line of pre-training: parse, open, print the plan, train."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from core.cluster.options import add_launcher, resources_of
from core.errors import UserError
from core.project import CONFIGS, command
from evaluate.common.cli import help_end


def main() -> None:
    """Pre-trains a backbone, resuming the run in `--out` if one exists."""
    arguments = _arguments()
    if (resources := resources_of(arguments)) and not arguments.dry_run:
        from core.cluster.submit import submit_this_command

        submit_this_command(resources)
        return

    from core.compute.malloc import disable_trimming
    from core.config import Setting, load_config
    from core.data.open import open_images
    from core.data.order import check_batch
    from core.distributed import init_distributed
    from pretrain.config import PretrainConfig
    from pretrain.initial import open_initial
    from pretrain.monitoring.monitor import open_monitor
    from pretrain.plan import check_sizes, plan
    from pretrain.views.decode import describe_decoding

    given = {"data.source": arguments.data, "init": arguments.init}
    settings = [Setting(key, value) for key, value in given.items() if value]
    config = load_config(PretrainConfig, arguments.config, [*arguments.overrides, *settings])
    run = arguments.out or Path("runs") / arguments.config.stem
    processes = init_distributed(arguments.device)
    workers = _workers(arguments.workers, processes.device.type)
    if processes.device.type == "cpu":
        disable_trimming()
    config, start = open_initial(config, arguments.network)
    images = open_images(config.data, "pretrain", config.seed)
    check_batch(config.batch, len(images), images.name, processes.world_size)
    if config.batch // processes.world_size < 2:
        raise UserError(f"batch {config.batch} leaves one image to a process, too few for batch norm; raise batch")
    check_sizes(config)
    decoding = describe_decoding(config, images, processes.device)
    monitor, monitoring = open_monitor(config, processes, workers)
    if processes.is_main:
        print(plan(config, images, processes, str(run), monitoring, start, decoding), flush=True)
        if arguments.dry_run or processes.device.type == "cuda":
            from pretrain.large.memory import device_memory, lines, memory_plan

            print("\n".join(lines(memory_plan(config, processes), device_memory(processes.device))), flush=True)
    if arguments.dry_run:
        return
    if arguments.show_views:
        from pretrain.views.contact_sheet import draw_views

        draw_views(images, config, arguments.show_views)
        print(f"views drawn: {arguments.show_views}")
        return

    from pretrain.trainer import Stopped, train

    try:
        train(config, run, images, processes, workers, monitor, start)
    except Stopped as stopped:
        if processes.is_main:
            print(stopped, file=sys.stderr)
        sys.exit(143)
    if processes.is_main:
        print(f"done: {run}  (next: {command('evaluate/knn.py', '--ckpt', str(run))})")


def _workers(asked: int | None, device: str) -> int:
    """Loader processes of this rank, and on a CPU the threads that are left for the network."""
    import torch

    if asked is not None and asked < 0:
        raise UserError(f"--workers must not be negative, but is {asked}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if device != "cpu":
        return min(16, share) if asked is None else asked
    workers = max(1, share // 4) if asked is None else asked
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, share - workers))
    return workers


def _recipe(given: str) -> Path:
    """File of a recipe: the path, or where none exists, NAME.yaml in configs/pretrain."""
    shipped = CONFIGS / "pretrain" / f"{given}.yaml"
    return shipped if not Path(given).exists() and "/" not in given and shipped.is_file() else Path(given)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Pre-train a self-supervised backbone: an objective over several view types, and auxiliary losses.",
        **help_end(
            "pretrain/run.py",
            "--config r50_byol_multitask --data folder:/data/imagenet --out runs/r50 optim.lr=0.3",
        ),
    )
    parser.add_argument(
        "--config", type=_recipe, required=True, help="recipe: a YAML file, or NAME in configs/pretrain"
    )
    parser.add_argument("--out", type=Path, help="run folder; an unfinished run there is resumed (default runs/CONFIG)")
    parser.add_argument("--data", help="short for data.source=…: scenes, folder:ROOT, webdataset:SHARDS, hf:NAME, …")
    parser.add_argument(
        "--init", metavar="CKPT", help="continue from the backbone of a run folder, a weights file or timm:NAME.TAG"
    )
    parser.add_argument(
        "--network", choices=("online", "target"), default="online", help="network of --init (default: online)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    parser.add_argument("--workers", type=int, help="loader processes per rank (default: by the machine)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument("--show-views", type=Path, metavar="PNG", help="draw views as the network sees them, and stop")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user's mistake too")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the recipe's")
    add_launcher(parser)
    return parser.parse_intermixed_args()
