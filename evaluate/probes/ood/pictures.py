"""Picture of an out-of-distribution measurement: accuracy by severity, a curve for each corruption."""

from __future__ import annotations

import io
from typing import Any

import PIL.Image

from evaluate.common.pictures import FOLDER, save_picture
from evaluate.probes.base import Job

CURVES = "corruption curves"


def draw(job: Job, metrics: dict[str, Any]) -> None:
    """Draws what --draw asks for."""
    curves = metrics.get("corrupted_curves") or metrics.get("imagenet_c_curves")
    if not job.arguments.draw or not curves:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    severities = range(6)
    for number, (name, values) in enumerate(curves.items()):
        style = ("-", "--", ":")[number // 7]
        axes.plot(severities, [metrics["clean"], *values], style, label=name.replace("_", " "), linewidth=1.2)
    axes.set_xlabel("severity (0: clean)")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, ncols=2, frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    with PIL.Image.open(stream, formats=["PNG"]) as picture:
        caption = f"top-1 accuracy by severity; clean {metrics['clean']:.1f} %"
        save_picture(job.folder / FOLDER / "corruptions.png", picture.convert("RGB"), CURVES, caption)
