"""mIoU against scikit-learn's confusion matrix and the engine's metric."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from evaluate.dense.confusion import confusion, majority, mean_iou, pixels_per_class, scores

RNG = np.random.default_rng(0)
TRUTH = RNG.integers(0, 5, (3, 20, 30)).astype(np.uint8)
TRUTH[:, :4] = 255
PREDICTED = np.where(RNG.random(TRUTH.shape) < 0.6, TRUTH, RNG.integers(0, 4, TRUTH.shape)) % 7
COUNTED = TRUTH != 255


def test_the_matrix_and_the_mean_are_scikit_learns() -> None:
    matrix = confusion(TRUTH, PREDICTED, 7)
    assert (matrix == confusion_matrix(TRUTH[COUNTED], PREDICTED[COUNTED], labels=range(7))).all()
    each = jaccard_score(TRUTH[COUNTED], PREDICTED[COUNTED], labels=range(5), average=None)
    assert mean_iou(matrix) == pytest.approx(100 * each.mean())
    found = scores(matrix, [f"c{number}" for number in range(7)])
    assert found["IoU"]["c6"] is None
    assert found["aAcc"] == pytest.approx(100 * (TRUTH[COUNTED] == PREDICTED[COUNTED]).mean())


def test_the_scores_are_the_engines() -> None:
    pytest.importorskip("mmseg")
    from evaluate.segmentation.engine.metric import scores as engine_scores

    matrix, names = confusion(TRUTH, PREDICTED, 7), [str(number) for number in range(7)]
    theirs = engine_scores(matrix, names)
    for key, value in scores(matrix, names).items():
        assert value == (pytest.approx(theirs[key]) if key != "IoU" else theirs[key])


def test_the_majority_class_scores_its_share() -> None:
    train, val = np.array([9, 1, 0]), np.array([6, 2, 0])
    assert majority(train, val) == {"majority_mIoU": pytest.approx(37.5), "majority_aAcc": pytest.approx(75.0)}
    assert (pixels_per_class(TRUTH, 5) == [(label == TRUTH).sum() for label in range(5)]).all()
    with pytest.raises(ValueError, match="no pixel"):
        mean_iou(np.zeros((3, 3), np.int64))
