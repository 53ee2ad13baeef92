"""evaluate/probes/accuracy.py against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from evaluate.probes.accuracy import TopKAccuracy, logit_ranks

CPU = torch.device("cpu")


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("classes", [3, 12])
def test_the_three_accuracies_equal_scikit_learns(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = np.minimum(rng.geometric(0.4, 500) - 1, classes - 1)  # classes of very different size
    labels[labels == 1] = 0  # and one without images
    logits = rng.standard_normal((500, classes, 4)) + 1.5 * (np.arange(classes) == labels[:, None])[:, :, None]
    hits = TopKAccuracy(4, classes, CPU)
    for start in (0, 200):  # heads in two calls of a batch, images in two batches
        block = slice(start, start + 200 if start == 0 else None)
        for head in (0, 2):
            part = torch.from_numpy(logits[block, :, head : head + 2])
            hits.add(part, torch.from_numpy(labels[block]), head, images=head == 0)
    scores = hits.scores()
    for head in range(4):
        predicted = logits[:, :, head].argmax(1)
        assert scores.top1[head] == pytest.approx(100 * accuracy_score(labels, predicted), abs=1e-9)
        assert scores.mean_per_class[head] == pytest.approx(100 * balanced_accuracy_score(labels, predicted), abs=1e-9)
        if classes > 5:
            top5 = top_k_accuracy_score(labels, logits[:, :, head], k=5, labels=np.arange(classes))
            assert scores.top5[head] == pytest.approx(100 * top5, abs=1e-9)
        else:
            assert scores.top5[head] == 100
    assert len(set(scores.top1)) > 1


def test_ties_go_to_the_lower_class_and_nan_is_wrong() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0]])[:, :, None]
    assert [int(logit_ranks(logits, torch.tensor([label]))[0, 0]) for label in range(4)] == [2, 0, 1, 3]
    assert logit_ranks(torch.full((1, 4, 2), torch.nan), torch.tensor([0])).tolist() == [[4, 4]]
