"""Conversion: time and peak memory of writing a backbone for another library. `python benchmarks/convert.py`"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.alternate import Goal, Row, benchmark_parser, finish, peak, reset_peak

CASES = (("resnet50", "detectron2", ".pkl"), ("vit_base_patch16_224", "mmseg", ".pth"))


def main() -> None:
    """Each conversion in a process of its own; the libraries it imports are not counted."""
    parser = benchmark_parser("Time conversions and measure their peak memory.", rounds=3)
    parser.add_argument("--names", nargs="*", default=[name for name, _, _ in CASES], help="of timm")
    parser.add_argument("--one", nargs=3, metavar=("CKPT", "TO", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_convert(*arguments.one)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, to, suffix in CASES:
            if name in arguments.names:
                rows += conversion_rows(Path(folder), name, to, suffix, arguments)
    finish("convert", arguments, rows)


def conversion_rows(folder: Path, name: str, to: str, suffix: str, arguments: argparse.Namespace) -> list[Row]:
    """Time, and memory over the file's size."""
    file, out = folder / f"{name}.pth", folder / f"{name}-converted{suffix}"
    _write_checkpoint(name, file)
    megabytes = file.stat().st_size / 1e6
    command = [sys.executable, __file__, "--threads", str(arguments.threads), "--one", str(file), to, str(out)]
    found: list[Mapping[str, float]] = [
        json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1])
        for _ in range(arguments.rounds)
    ]
    seconds = {key: [one[key] for one in found] for key in ("conversion", "proof")}
    memory = {"peak": [one["peak"] for one in found], "the file": [megabytes] * len(found)}
    what = f"{name} to {to}"
    return [
        Row(f"{what}, the proof apart", "s", seconds, goal=Goal("≤", 2)),
        Row(f"{what}, memory over file size", "MB", memory, ("peak", "the file"), Goal("≤", 2.5)),
    ]


def _write_checkpoint(name: str, file: Path) -> None:
    import timm
    import torch

    torch.manual_seed(0)
    torch.save(timm.create_model(name, num_classes=0).state_dict(), file)


def _convert(ckpt: str, to: str, out: str) -> dict[str, float]:
    import timm  # noqa: F401  (imports are start-up, not conversion)
    import torchvision  # noqa: F401

    from converters.destinations import write_for
    from converters.open import open_with_report
    from converters.verification.verify import verify

    before, started = reset_peak(), time.perf_counter()
    backbone, table = open_with_report(ckpt, "online", None)
    write_for(backbone, table, to, Path(out))
    taken, most = time.perf_counter() - started, peak() - before
    started = time.perf_counter()
    verify(backbone, to, Path(out))
    return {"conversion": taken, "peak": most, "proof": time.perf_counter() - started}


if __name__ == "__main__":
    main()
