"""Damaged command lines, given to the entry points' own `main`, which stop before they compute (--dry-run)."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import random
import sys
from pathlib import Path

import PIL.Image

from core.backbones import BackboneConfig, build_backbone
from core.checkpoints import export_backbone
from core.errors import UserError
from tests.fuzz.mutations import NASTY, damaged
from tests.fuzz.trial import Trial

_NARROW = BackboneConfig("resnet18", {"channels": [8, 8, 8, 8]}, "small")


def command_lines(folder: Path) -> Trial:
    """Arguments left out, doubled, damaged and replaced."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            (folder / "data" / split / name).mkdir(parents=True)
            for number in range(4):
                PIL.Image.new("RGB", (9, 9), (number, 0, 0)).save(folder / "data" / split / name / f"{number}.png")
    export_backbone(folder / "b.safetensors", build_backbone(_NARROW), _NARROW, {"network": "online"})
    source = f"folder:{folder / 'data'}"
    measured = [
        "--ckpt",
        str(folder / "b.safetensors"),
        "--device",
        "cpu",
        "--workers",
        "0",
        "--out",
        str(folder / "r"),
    ]
    small = ["features.transform.crop=32", "features.transform.resize=32"]
    lines = {
        "evaluate.knn": [*measured, "--protocol", "knn_dino", "--data", source, *small, "ks=[2,4]"],
        "evaluate.linear": [*measured, "--protocol", "linear_mulan_r50", "--data", source, *small, "batch=4"],
        "evaluate.logreg": [*measured, "--protocol", "logreg_dinov2", "--data", source, *small, "count=3"],
        "evaluate.finetune": [*measured, "--protocol", "finetune_scenes_64px_10pct", "--data", source, "batch=4"],
        "evaluate.transfer_sets": [*measured, "--protocol", "transfer_small", "--sets", source, *small],
        "pretrain.run": ["--config", "configs/pretrain/demo_scenes.yaml", "--device", "cpu", "--workers", "0",
                         "--out", str(folder / "p"), "--data", source, "batch=4", "backbone.args.layers=[1,1,1,1]"],
    }  # fmt: skip

    def trial(rng: random.Random) -> None:
        module = rng.choice(list(lines))
        arguments = list(lines[module])
        for _ in range(rng.choice((0, 1, 1, 2))):
            _change(arguments, rng)
        # In front, so that no option takes it for its value.
        before, sys.argv = sys.argv, [module, "--dry-run", *arguments]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                importlib.import_module(module).main()
        except SystemExit as end:  # the parser's own sentence
            if end.code == 2:
                raise UserError("the parser refuses it") from None
            if end.code:
                raise AssertionError(f"ended with {end.code}") from None
        except OSError as error:  # which the entry points turn into a sentence
            if error.filename is None:
                raise
            raise UserError(str(error)) from None
        finally:
            sys.argv = before

    return trial


def _change(arguments: list[str], rng: random.Random) -> None:
    at = rng.randrange(len(arguments))
    way = rng.random()
    if way < 0.2 and len(arguments) > 1:
        del arguments[at]
    elif way < 0.3:
        arguments.insert(at, arguments[at])
    elif way < 0.6:
        arguments[at] = damaged(arguments[at].encode(), rng).decode("utf-8", "replace").replace("\0", "")
    elif way < 0.8:
        arguments[at] = f"{arguments[at].partition('=')[0]}={json.dumps(rng.choice(NASTY))}"
    else:
        arguments[at] = str(rng.choice(NASTY)).replace("\0", "").encode("utf-8", "replace").decode()
