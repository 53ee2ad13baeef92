"""A 2-D map of features by t-SNE: a fixed sample of images, coloured by class."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.features import Features
from evaluate.common.labelled import SAMPLE_SEED
from evaluate.common.matplotlib_style import new_figure, style
from evaluate.common.pictures import save_picture
from evaluate.probes.knn.probe import MAP

_IMAGES = 1000
_CLASSES = 10
_PERPLEXITY = 30.0
_MARKERS = "osD^vP*X<>"
# The order puts colours that are alike to colour-blind eyes far apart; the shape of a mark tells its class as well.
_COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5195"),
    *("#e6a000", "#56b4e9", "#5c5c5c", "#8c2d04", "#9ac000"),
)


def draw_map(path: Path, features: Features, measured: str) -> None:
    """Writes the map of up to 1,000 images of up to 10 classes of `features` (unit length) to the PNG `path`.

    Images and start are the same for every backbone and seed, so that maps can be laid side by side. `measured` is the
    number that a reader should trust more than the picture, and goes into the caption.
    """
    rows, classes = choose(features.labels)
    places = place(features.values[rows].astype(np.float32))
    labels = features.labels[rows]
    left_out = f"{len(classes)} of {len(features.classes)} classes, " if len(classes) < len(features.classes) else ""
    caption = (
        f"t-SNE of the features of {len(rows):,} images of {features.name} ({left_out}perplexity "
        f"{perplexity(len(rows)):g}, seed {SAMPLE_SEED}), coloured by class; {measured}"
    )
    names = [features.classes[label] for label in classes]
    save_picture(path, _scatter(places, labels, classes, names), MAP, caption)


def choose(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
    """Rows of the images to show, ascending, and their classes: evenly spread where there are more than ten."""
    there = np.unique(labels[labels >= 0])
    classes = there[np.unique(np.linspace(0, len(there) - 1, min(_CLASSES, len(there))).round().astype(int))]
    rows = np.flatnonzero(np.isin(labels, classes))
    chosen = np.random.default_rng((SAMPLE_SEED, 3)).permutation(len(rows))[:_IMAGES]
    return np.sort(rows[chosen]), [int(label) for label in classes]


def perplexity(count: int) -> float:
    """30 (van der Maaten & Hinton, "Visualizing Data using t-SNE": 5 … 50), less where there are too few points."""
    return min(_PERPLEXITY, max(1.0, (count - 1) // 3))


def place(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """t-SNE of [N, D] features to [N, 2]. Of unit features: Euclidean neighbours are cosine neighbours."""
    from sklearn.manifold import TSNE

    if len(values) < 3:  # too few to have neighbours
        return np.arange(2 * len(values), dtype=np.float32).reshape(-1, 2)
    # Features that are all alike, as those of a collapsed network, have no principal axes to start from.
    alike = values.shape[1] < 2 or float(values.std(axis=0).max()) < 1e-6
    start = "random" if alike else "pca"
    tsne = TSNE(perplexity=perplexity(len(values)), init=start, learning_rate="auto", random_state=SAMPLE_SEED)
    return tsne.fit_transform(values)


def _scatter(
    places: NDArray[np.float32], labels: NDArray[np.int64], classes: Sequence[int], names: Sequence[str]
) -> PIL.Image.Image:
    with style():
        figure = new_figure(400, 440)
        axes = figure.add_subplot()
        for number, (label, name) in enumerate(zip(classes, names, strict=True)):
            own = places[labels == label]
            axes.scatter(
                own[:, 0], own[:, 1], s=18, alpha=0.8, linewidths=0, label=name,
                color=_COLOURS[number % len(_COLOURS)], marker=_MARKERS[number % len(_MARKERS)],
            )  # fmt: skip
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        figure.legend(
            loc="outside lower center", ncols=5, fontsize=9, handletextpad=0.2, columnspacing=1.0, markerscale=1.5
        )
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=144, facecolor="white")
    return PIL.Image.open(stream).convert("RGB")
