"""Results side by side: one row per backbone, one column per protocol. `python evaluate/table.py results`"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from core.errors import UserError, run_entry_point

RESULT_FORMAT = "ssl-transfer/result/1"
HEADLINES = {"top1": "top-1", "box_ap": "box AP", "mask_ap": "mask AP", "mIoU": "mIoU"}
"""Metrics that get a column, with their title; all are percentages."""


def main() -> None:
    """Reads every result.json below a folder and prints the table as Markdown."""
    parser = argparse.ArgumentParser(
        description="Print results side by side: rows are backbones, columns protocols; several seeds give mean ± std.",
        epilog="example: python evaluate/table.py results",
    )
    parser.add_argument("folder", type=Path, help="folder that holds result.json files, at any depth")
    parser.add_argument("--debug", action="store_true", help="show the traceback of a user's mistake too")
    print(markdown(read_results(parser.parse_args().folder)))


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Every result.json below `folder`, by path. `UserError` where there is none or one is something else."""
    results = []
    for path in sorted(folder.rglob("result.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            if result["format"] != RESULT_FORMAT:
                raise ValueError(f"its format is {result['format']!r}")
            row_of(result), data_of(result), int(result["seed"]), result["checkpoint"]["backbone_sha256"]
            if not _headlines(result):
                raise ValueError(f"its metrics have none of {', '.join(HEADLINES)}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a result of this project ({error}); move it away") from None
        results.append(result)
    if not results:
        raise UserError(f"no result.json below {folder}; run an evaluation first, e.g. python evaluate/knn.py --ckpt …")
    return results


def row_of(result: dict[str, Any]) -> str:
    """What was measured: architecture and training, without the seed."""
    checkpoint, backbone = result["checkpoint"], result["backbone"]
    if backbone == "pixels":
        return "raw pixels"
    if checkpoint.get("family") == "random":
        return f"{backbone}, random initialisation"
    network = f", {checkpoint['network']} network" if checkpoint.get("network", "online") != "online" else ""
    if "recipe_sha256" in checkpoint:  # our own run: the recipe without its seed tells it from another of the method
        what = f"{checkpoint['method']} {checkpoint['epoch']} epochs on {checkpoint['data']}"
        return f"{backbone}, {what}, recipe {checkpoint['recipe_sha256'][:6]}{network}"
    return f"{backbone}, {checkpoint['given']}{network}"


def data_of(result: dict[str, Any]) -> str:
    """The first digits of the data's digests."""
    return " ".join(part["digest"][:8] for part in result["data"].values())


def _headlines(result: dict[str, Any]) -> dict[str, float]:
    return {key: float(result["metrics"][key]) for key in HEADLINES if result["metrics"].get(key) is not None}


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """The table, in percent; `mean ± standard deviation (n runs)` where a cell has several results.

    Numbers that differ in protocol, metric or data never share a column.
    """
    cells: dict[tuple[str, tuple[str, str, str]], dict[tuple[str, int], float]] = defaultdict(dict)
    for result in results:
        run = (result["checkpoint"]["backbone_sha256"], result["seed"])
        for metric, value in _headlines(result).items():
            cells[row_of(result), (result["protocol"], metric, data_of(result))][run] = value
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = sorted({column for _, column in cells})
    kinds = [(protocol, metric) for protocol, metric, _ in columns]
    titles = [
        f"{protocol}, {HEADLINES[metric]}" + (f", data {data}" if kinds.count((protocol, metric)) > 1 else "")
        for protocol, metric, data in columns
    ]
    lines = ["| backbone | " + " | ".join(titles) + " |", "|---" * (len(columns) + 1) + "|"]
    # Baselines first, then by what the first column says.
    rows.sort(key=lambda row: ("raw pixels" not in row, "random init" not in row, row))
    lines += [
        f"| {row} | " + " | ".join(_cell(cells.get((row, column), {})) for column in columns) + " |" for row in rows
    ]
    return "\n".join(lines)


def _cell(runs: dict[tuple[str, int], float]) -> str:
    values = list(runs.values())
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} ({len(values)} runs)"


if __name__ == "__main__":
    run_entry_point(main)
