"""From every head's scores after every epoch to what is reported: the best head, last and best epoch, and all heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluate.probes.accuracy import Accuracies, Report
from evaluate.probes.features.head_inputs import HeadInputs
from evaluate.probes.linear.protocol import LinearConfig


def summary(
    epochs: Sequence[Accuracies], heads: Sequence[dict[str, Any]], report: Report = "last_epoch"
) -> dict[str, Any]:
    """The metrics of the result: the best head after the epoch of `report`, the best head and epoch of all, every head.

    Equal heads: the first. The head is chosen on the validation images on which it is then reported, as the field does.
    """
    rows = []
    for number, head in enumerate(heads):
        best = max(range(len(epochs)), key=lambda epoch: epochs[epoch].top1[number])
        reported = epochs[best if report == "best_epoch" else -1]
        rows.append(
            {
                **head,
                "top1": reported.top1[number],
                "top5": reported.top5[number],
                "mean_per_class": reported.mean_per_class[number],
                **({"last_epoch_top1": epochs[-1].top1[number]} if report == "best_epoch" else {}),
                "best_epoch": best + 1,
                "best_epoch_top1": epochs[best].top1[number],
            }
        )
    chosen = max(range(len(rows)), key=lambda number: rows[number]["top1"])
    peak = max(range(len(rows)), key=lambda number: rows[number]["best_epoch_top1"])
    return {
        **{key: rows[chosen][key] for key in ("top1", "top5", "mean_per_class")},
        "head": f"{rows[chosen]['input']}, lr {rows[chosen]['lr']:g}",
        "head_number": chosen,
        "epochs": len(epochs),
        "best_epoch_top1": rows[peak]["best_epoch_top1"],
        "best_epoch": rows[peak]["best_epoch"],
        "best_epoch_head": f"{rows[peak]['input']}, lr {rows[peak]['lr']:g}",
        "heads": rows,
    }


def heads_of(config: LinearConfig, inputs: HeadInputs) -> list[dict[str, Any]]:
    """Input and learning rates of each head, in the grid's order."""
    return [
        {"input": name, "lr": lr, "lr_used": used}
        for name in inputs.names
        for lr, used in zip(config.lrs, config.used_lrs(), strict=True)
    ]


def table(metrics: dict[str, Any]) -> str:
    """The best heads of `summary`, as printed."""
    rows = sorted(metrics["heads"], key=lambda row: -row["top1"])
    shown = rows[:8]
    width = max(len(row["input"]) for row in shown)
    lines = [f"{'input':{width}}      lr    top-1   top-5   mean per class   best epoch"]
    lines += [
        f"{row['input']:{width}}   {row['lr']:<7g} {row['top1']:6.2f}  {row['top5']:6.2f}   "
        f"{row['mean_per_class']:14.2f}   {row['best_epoch_top1']:.2f} (epoch {row['best_epoch']})"
        for row in shown
    ]
    if len(rows) > len(shown):
        lines.append(f"… and {len(rows) - len(shown)} more heads in result.json")
    return "\n".join(lines)
