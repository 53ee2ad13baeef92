"""Ridge regression and its choice of penalty, R², errors and octants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

PENALTIES = tuple(10.0**power for power in range(-4, 5))


def ridge(train: NDArray[Any], targets: NDArray[Any], test: NDArray[Any], penalty: float) -> NDArray[np.float64]:
    """Predictions [M, T] of ridge regression with an intercept, in closed form; rows [N, D] and [M, D].

    The penalty is relative to the number of rows; solved on the smaller side of the matrix.
    """
    mean, centre = train.mean(0), targets.mean(0)
    rows, wanted = train - mean, targets - centre
    count, width = rows.shape
    if width <= count:
        gram = rows.T @ rows + penalty * count * np.eye(width)
        return (test - mean) @ np.linalg.solve(gram, rows.T @ wanted) + centre
    gram = rows @ rows.T + penalty * count * np.eye(count)
    return (test - mean) @ (rows.T @ np.linalg.solve(gram, wanted)) + centre


def chosen_ridge(
    train: NDArray[Any], targets: NDArray[Any], test: NDArray[Any], groups: NDArray[np.int64]
) -> tuple[NDArray[np.float64], float]:
    """Predictions of the penalty that is best on every fifth group (image) of the training rows, and that penalty."""
    held = groups % 5 == 4
    if held.all() or not held.any():
        held = np.arange(len(groups)) % 5 == 4
    losses = [
        float(np.mean((ridge(train[~held], targets[~held], train[held], value) - targets[held]) ** 2))
        for value in PENALTIES
    ]
    penalty = PENALTIES[int(np.argmin(losses))]
    return ridge(train, targets, test, penalty), penalty


def explained(predicted: NDArray[Any], truth: NDArray[Any], mean: NDArray[Any]) -> float:
    """R² over all entries: 1 − squared error over that of predicting the training `mean`; may be negative."""
    return 1 - float(np.sum((predicted - truth) ** 2) / np.sum((truth - mean) ** 2))


def octants(relations: NDArray[Any]) -> NDArray[np.int64]:
    """Direction of each (dx, dy) among eight of 45°, the first centred on the right, [N]."""
    return np.rint(np.arctan2(relations[:, 1], relations[:, 0]) / (math.pi / 4)).astype(np.int64) % 8


def scores(predicted: NDArray[Any], truth: NDArray[Any], train: NDArray[Any]) -> dict[str, float]:
    """R² of dx, dy, position and scale, mean absolute errors, and octant accuracy in percent."""
    mean = train.mean(0)
    return {
        "dx_r2": explained(predicted[:, 0], truth[:, 0], mean[0]),
        "dy_r2": explained(predicted[:, 1], truth[:, 1], mean[1]),
        "position_r2": explained(predicted[:, :2], truth[:, :2], mean[:2]),
        "scale_r2": explained(predicted[:, 2:], truth[:, 2:], mean[2:]),
        "position_error": float(np.abs(predicted[:, :2] - truth[:, :2]).mean()),
        "scale_error_octaves": float(np.abs(predicted[:, 2:] - truth[:, 2:]).mean() / math.log(2)),
        "octant": 100 * float((octants(predicted) == octants(truth)).mean()),
    }


def chance(truth: NDArray[Any], train: NDArray[Any]) -> dict[str, float]:
    """Scores of predicting the training mean, and of the commonest octant of the test pairs."""
    guess = np.broadcast_to(train.mean(0), truth.shape)
    return scores(guess, truth, train) | {"octant": 100 * float(np.bincount(octants(truth)).max() / len(truth))}
