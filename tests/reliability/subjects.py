"""What the soak kills: each entry point on tiny data, its chosen moments, and what must be equal at the end."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from core.checkpoints import read_tensors, tensors_digest
from tests.reliability.killing import Kill, Watch
from tests.reliability.tiny_runs import last_state, leaves, metrics, write_images, write_recipe

_BACKBONE = "timm:resnet18(channels=[8,16,32,64])"


@dataclass(frozen=True)
class Subject:
    name: str
    main: Callable[[], None]
    """The entry point."""
    prepare: Callable[[Path], list[str]]
    """Writes data and recipe into a folder; the arguments but for --out."""
    outcome: Callable[[Path], dict[str, Any]]
    """Of a finished run's folder: what an uninterrupted run must have equal."""
    ends: str
    """What is equal, in words."""
    modules: Sequence[str]
    """What the entry point imports, or calls to import, when it runs: done before, so that a fork need not."""
    chosen: Sequence[Kill] = ()
    """Kills at chosen points of the system."""
    points: Callable[[Watch], None] = lambda _watch: None
    """Adds events of the subject's own."""

    def arguments(self, given: Sequence[str], out: Path) -> list[str]:
        """The command line of a run into `out`."""
        return [*given, "--out", str(out)]


def _digest(tensors: dict[str, Any]) -> str:
    return tensors_digest({str(number): leaf for number, leaf in enumerate(leaves(tensors)) if torch.is_tensor(leaf)})


def _no_line_twice(out: Path) -> list[dict[str, Any]]:
    lines = metrics(out)
    kinds = [(line["step"], "knn_top1" in line) for line in lines]
    assert len(set(kinds)) == len(kinds), kinds
    assert kinds == sorted(kinds), kinds
    return lines


# Pre-training: states at the end of each epoch and every few steps, k-NN after each epoch.


def _prepare_pretrain(place: Path) -> list[str]:
    images = write_images(place / "images")
    recipe = write_recipe(
        place / "tiny.yaml", images, "monitor={every_epochs: 1, k: 3, resize: 32, crop: 32}",
        "checkpoint.every_minutes=0.002", "epochs=5",
    )  # fmt: skip
    return ["--config", str(recipe), "--device", "cpu", "--workers", "0"]


def _outcome_of_pretrain(out: Path) -> dict[str, Any]:
    state = last_state(out)
    exports = {}
    for name in ("backbone", "backbone_target"):
        with safe_open(out / f"{name}.safetensors", framework="pt") as file:
            exports[name] = (file.metadata(), tensors_digest({key: file.get_tensor(key) for key in file.keys()}))  # noqa: SIM118
    lines = [{k: v for k, v in line.items() if k != "images_per_second"} for line in _no_line_twice(out)]
    plain = [leaf for leaf in leaves(state) if not torch.is_tensor(leaf)]
    return {"tensors": _digest(state), "values": plain, "exports": exports, "metrics": lines}


def _points_of_pretrain(watch: Watch) -> None:
    from core.run_folder import RunFolder
    from pretrain import state
    from pretrain.monitoring import monitor

    state.git_revision = lambda: "the same"  # though somebody may commit meanwhile
    write, extract = RunFolder.write, monitor.extract_features

    def written(self: RunFolder, step: int, values: dict[str, Any]) -> None:
        def tear() -> None:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, **values})[:20])

        watch.event("half a line of metrics", tear)
        write(self, step, values)

    def extracted(*given: Any, **more: Any) -> Any:
        watch.event("k-NN monitor")
        return extract(*given, **more)

    RunFolder.write = written  # type: ignore[method-assign]
    monitor.extract_features = extracted  # type: ignore[assignment]


def _chosen_of_pretrain() -> list[Kill]:
    kills = []
    for nth in (1, 2, 3, 5):
        state, export, target = r"os.rename /checkpoints/step_", r"os.rename /backbone\.", r"os.rename /backbone_target"
        kills += [Kill(signal.SIGKILL, match=state, nth=nth)]  # written, but not named
        kills += [Kill(signal.SIGKILL, match=r"open /checkpoints$", nth=nth)]  # named, the oldest still there
        kills += [
            Kill(signal.SIGKILL, match=target, torn=torn, nth=nth) for torn in (900, 20_000, 60_000)
        ]  # half a state
        kills += [Kill(signal.SIGKILL, match="half a line of metrics", torn=torn, nth=nth) for torn in (3000, 9000)]
        kills += [Kill(signal.SIGKILL, match=export, nth=nth), Kill(signal.SIGKILL, match=target, nth=nth)]
        kills += [Kill(number, match="k-NN monitor", nth=nth) for number in (signal.SIGKILL, signal.SIGTERM)]
        kills += [Kill(signal.SIGKILL, match="half a line of metrics", nth=2 * nth)]
        kills += [Kill(signal.SIGTERM, match=state, nth=nth), Kill(signal.SIGTERM, match=export, nth=nth)]
    return kills


def _pretrain() -> None:
    from pretrain.run import main

    main()


# Probes: ten epochs on cached features.


def _prepare_linear(place: Path) -> list[str]:
    write_images(place / "images")
    (place / "own.yaml").write_text(
        "name: own\nfeatures: {transform: {resize: 36, crop: 32}, batch: 3}\nlrs: [0.01, 0.1]\nbatch: 6\nepochs: 10\n"
        "views: augmented\nstandardise: batch_norm\n"
    )
    return ["--ckpt", _BACKBONE, "--config", str(place / "own.yaml"), "--data", f"folder:{place / 'images'}",
            "--workers", "0", "--device", "cpu"]  # fmt: skip


def _outcome_of_linear(out: Path) -> dict[str, Any]:
    with safe_open(out / "head.safetensors", framework="pt") as file:
        head = tensors_digest({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
    names = sorted(path.name for path in out.iterdir())
    return {"metrics": _result(out), "head": head, "files": names}


def _result(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())["metrics"]


def _linear() -> None:
    from evaluate.linear import main

    main()


# Detection: thirty steps, a state every other.


def _prepare_coco(place: Path) -> list[str]:
    from core.data.scenes.coco_ade20k_folders import write_coco
    from core.data.scenes.render import ScenesConfig

    config = ScenesConfig(size=64, objects=(1, 3), radius=(0.15, 0.35), pretrain=1, train=12, test=5)
    root = write_coco(place / "scenes", config)
    (place / "tiny.yaml").write_text(
        f"name: tiny\n"
        f"data: {{source: 'coco:{root}', short_sides: [64], longest: 64, test_short_side: 64, mask_format: bitmask}}\n"
        f"detector: {{pyramid_width: 16, box_width: 32, mask_convs: 1, mask_width: 16, anchors: [8, 16, 24, 32, 48], "
        f"proposals: [50, 50, 30, 30], rois: 16}}\n"
        f"solver: {{lr: 0.02, batch: 4, iterations: 10, steps: [8], warmup: 2, checkpoint_every: 2, log_every: 1, "
        f"precise_bn: 2}}\n"
    )
    return ["--ckpt", _BACKBONE, "--config", str(place / "tiny.yaml"), "--workers", "0", "--device", "cpu"]


def _outcome_of_coco(out: Path) -> dict[str, Any]:
    assert 0 <= _result(out)["box_ap"] <= 100
    steps = [line["step"] for line in _no_line_twice(out)]
    return {"steps": steps, "state": read_tensors(out / "detector.pt")["step"], "metrics": sorted(_result(out))}


def _coco() -> None:
    from evaluate.coco import main

    main()


# Segmentation: ten iterations, a state every other.


def _prepare_segment(place: Path) -> list[str]:
    (place / "tiny.yaml").write_text(
        "name: tiny\n"
        "data: {layout: scenes, classes: 9, scenes: {size: 32, radius: [0.3, 0.4], train: 12, test: 7}}\n"
        "network: {backbone: resnet18}\n"
        "head: {kind: fcn, channels: 8, convs: 1, every_map: true, auxiliary: 0.0}\n"
        "optim: {name: sgd, lr: 0.05, weight_decay: 0.0}\n"
        "schedule: {iterations: 10, warmup: 2, power: 0.9}\n"
        "crop: {size: 32, scale: [32, 32], ratio: [1.0, 1.0], cat_max_ratio: 1.0}\n"
        "inference: {scale: null}\nbatch: 4\nlog_every: 2\ncheckpoint_every: 2\n"
    )
    return ["--ckpt", _BACKBONE, "--config", str(place / "tiny.yaml"), "--workers", "0", "--device", "cpu"]


def _outcome_of_segment(out: Path) -> dict[str, Any]:
    assert 0 <= _result(out)["mIoU"] <= 100
    steps = [line["step"] for line in _no_line_twice(out)]
    kept = read_tensors(out / "segmentor.pth")["meta"]["iter"]
    return {"steps": steps, "iterations": kept, "metrics": sorted(_result(out)), "engine": (out / "engine").exists()}


def _segment() -> None:
    from evaluate.segment import main

    main()


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            "pretrain", _pretrain, _prepare_pretrain, _outcome_of_pretrain,
            "every tensor and value of the last state, both exports, all lines of metrics",
            ("faiss", "timm", "pretrain.plan", "pretrain.run", "pretrain.trainer"),
            _chosen_of_pretrain(), _points_of_pretrain,
        ),
        Subject(
            "linear", _linear, _prepare_linear, _outcome_of_linear, "all accuracies, every bit of the best head",
            (
                "timm", "converters.open", "evaluate.linear", "evaluate.probes.linear.training",
                "evaluate.probes.linear.summary",
            ),
        ),
        Subject(
            "coco", _coco, _prepare_coco, _outcome_of_coco, "a valid result after the same steps",
            (
                "converters.open", "evaluate.coco", "converters.engines.detectron2_compat:check_detectron2",
                "evaluate.detection.training.loop", "evaluate.detection.metrics.coco_metrics",
                "evaluate.detection.metrics.inference",
            ),
        ),
        Subject(
            "segment", _segment, _prepare_segment, _outcome_of_segment, "a valid result after the same iterations",
            (
                "converters.open", "converters.engines.openmmlab:import_mmseg", "evaluate.segment",
                "evaluate.segmentation.run", "evaluate.segmentation.preflight",
            ),
        ),
    )
}  # fmt: skip
