"""evaluate/probes/knn/vote.py: by hand and against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.distributed import Processes
from evaluate.probes.knn.protocol import class_accuracies, find_neighbours, knn_accuracy
from evaluate.probes.knn.search import Neighbours
from evaluate.probes.knn.vote import vote_accuracy, vote_ranks
from tests.evaluate.probes.knn.unit_features import features, unit_rows

ALONE = Processes(0, 1, torch.device("cpu"))


def test_votes_by_hand() -> None:
    # Class 1 has the nearest image (weight e^9 ≈ 8103), class 0 two a little farther (2 · e^8 ≈ 5962), class 2 none.
    similarities, labels = np.array([[0.9, 0.8, 0.8, 0.1]]), np.array([[1, 0, 0, 3]])

    def found(truth: int, classes: int = 9) -> dict[str, float]:
        return vote_accuracy(similarities, labels, np.array([truth]), classes, (1, 3, 4), 0.1)

    assert [found(truth)["weighted_top1_k3"] for truth in range(4)] == [0, 100, 0, 0]
    assert [found(truth)["majority_top1_k3"] for truth in range(4)] == [100, 0, 0, 0]
    assert [found(truth)["weighted_top5_k3"] for truth in range(4)] == [100, 100, 0, 0]
    assert [found(truth)["weighted_top5_k4"] for truth in range(4)] == [100, 100, 0, 100]
    assert [found(truth)["majority_top5_k1"] for truth in range(4)] == [0, 100, 0, 0]
    # Of five classes every one is among the top five, voted for or not.
    assert found(2, classes=5)["weighted_top5_k1"] == 100
    assert found(2, classes=5)["weighted_top1_k1"] == 0


def test_the_temperature_decides() -> None:
    similarities, labels = np.array([[0.9, 0.8, 0.8]]), np.array([[1, 0, 0]])
    winner = {}
    for temperature in (0.1, 0.2):  # e^1 = 2.718 > 2, e^0.5 = 1.649 < 2
        scores = vote_accuracy(similarities, labels, np.array([1]), 2, (3,), temperature)
        winner[temperature] = scores["weighted_top1_k3"]
    assert winner == {0.1: 100, 0.2: 0}
    assert vote_accuracy(similarities, labels, np.array([1]), 2, (3,), 1e-6)["weighted_top1_k3"] == 100


def test_ties_go_to_the_closer_class_then_to_the_lower_number() -> None:
    def ranks(similarities: list[float], labels: list[int]) -> list[int]:
        cosines = np.array([similarities] * 4)
        return vote_ranks(np.array([labels] * 4), np.ones(cosines.shape), cosines, np.arange(4), 4).tolist()

    assert ranks([0.9, 0.8, 0.7, 0.5], [2, 1, 1, 2]) == [3, 0, 1, 3]  # 1.5 against 1.4
    assert ranks([0.9, 0.8, 0.7, 0.7], [2, 1, 1, 2]) == [3, 1, 0, 3]  # 1.6 against 1.5
    assert ranks([0.75, 0.5, 0.5, 0.75], [3, 0, 3, 0]) == [0, 3, 3, 1]  # 1.25 each
    assert ranks([0.75, 0.5, 0.5, 0.5], [3, 2, 1, 0]) == [1, 2, 3, 0]  # three single votes at .5


@pytest.mark.parametrize("k", [1, 5, 20, 100])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_weighted_vote_agrees_with_scikit_learn(k: int, temperature: float) -> None:
    from sklearn.metrics import top_k_accuracy_score
    from sklearn.neighbors import KNeighborsClassifier

    classes = 7
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((classes, 16))
    labels, truth = rng.integers(0, classes, 600), rng.integers(0, classes, 700)
    raw_bank = centres[labels] + 1.5 * rng.standard_normal((600, 16))
    raw_queries = centres[truth] + 1.5 * rng.standard_normal((700, 16))
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distances: np.exp((1 - distances) / temperature)
    ).fit(raw_bank, labels)
    predictions, probabilities = reference.predict(raw_queries), reference.predict_proba(raw_queries)

    def unit(rows: NDArray[Any]) -> NDArray[np.float32]:
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    bank = features(unit(raw_bank), labels, classes)
    queries = features(unit(raw_queries), truth, classes)
    neighbours, _ = find_neighbours(bank, queries, k, ALONE)
    cosines = neighbours.similarities.astype(np.float64)
    # The rank of every class, asked for as if it were the true one.
    ranks = np.stack(
        [
            vote_ranks(neighbours.labels, np.exp(cosines / temperature), cosines, np.full(700, c), classes)
            for c in range(classes)
        ],
        axis=1,
    )
    assert np.array_equal(ranks.argmin(axis=1), predictions)
    voted = probabilities > 0
    expected = (probabilities[:, None, :] > probabilities[:, :, None]).sum(axis=2)  # classes that beat each class
    assert np.array_equal(ranks[voted], expected[voted])
    assert (ranks[~voted] == classes - 1).all()

    metrics = knn_accuracy(bank, queries, ALONE, (k,), temperature)
    assert metrics[f"weighted_top1_k{k}"] == pytest.approx(100 * (predictions == truth).mean(), abs=1e-9)
    # scikit-learn puts classes without a vote in any order, so its top five are compared where all classes have some.
    clear = voted.all(axis=1)
    if k == 100:
        assert clear.sum() > 300
        top5 = top_k_accuracy_score(truth[clear], probabilities[clear], k=5)
        found = vote_accuracy(cosines[clear], neighbours.labels[clear], truth[clear], classes, (k,), temperature)
        assert found["weighted_top5_k100"] == pytest.approx(100 * top5, abs=1e-9)


def test_majority_vote_agrees_with_scikit_learn_where_there_is_no_tie() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(5)
    bank, queries = unit_rows(300, 6, 6), unit_rows(2000, 6, 7)
    labels = rng.integers(0, 4, 300)
    reference = KNeighborsClassifier(9, metric="cosine", algorithm="brute").fit(bank, labels)
    probabilities = np.sort(reference.predict_proba(queries), axis=1)
    clear = probabilities[:, -1] > probabilities[:, -2]
    assert 0.5 < clear.mean() < 1
    chosen, predictions = queries[clear], reference.predict(queries[clear])
    metrics = knn_accuracy(features(bank, labels, 4), features(chosen, predictions, 4), ALONE, (9,))
    assert metrics["majority_top1_k9"] == 100


def test_all_ks_come_from_one_search_and_the_headline_is_the_best() -> None:
    rng = np.random.default_rng(0)
    bank = features(unit_rows(400, 8, 0), rng.integers(0, 12, 400), 12)
    queries = features(unit_rows(300, 8, 1), rng.integers(0, 12, 300), 12)
    together = knn_accuracy(bank, queries, ALONE, (50, 10, 20))
    for k in (10, 20, 50):
        alone = knn_accuracy(bank, queries, ALONE, (k,))
        assert {key: together[key] for key in alone if key.endswith(f"_k{k}")} == {
            key: value for key, value in alone.items() if key.endswith(f"_k{k}")
        }
    best = max(together[f"weighted_top1_k{k}"] for k in (10, 20, 50))
    assert together["top1"] == best == together[f"weighted_top1_k{together['k']}"]
    assert together["top5"] == together[f"weighted_top5_k{together['k']}"]


def test_accuracy_of_each_class_counts_the_votes_that_make_the_whole() -> None:
    bank = features(unit_rows(300, 8, 0), np.arange(300) % 5, 5, "bank")
    queries = features(unit_rows(700, 8, 1), np.arange(700) % 5 % 4, 5, "queries")  # no query of the last class
    neighbours, _ = find_neighbours(bank, queries, 10, ALONE)
    truth = queries.labels
    names = ("a", "b", "c", "d", "e")
    found = class_accuracies(neighbours, truth, names, 7, 0.1)
    whole = vote_accuracy(neighbours.similarities, neighbours.labels, truth, 5, (7,), 0.1)["weighted_top1_k7"]
    assert found.pop("e") is None
    counts = np.bincount(truth, minlength=4)
    assert sum(found[name] / 100 * count for name, count in zip(names, counts, strict=False)) / 700 == pytest.approx(
        whole / 100
    )
    assert len(set(found.values())) > 1


def test_accuracy_of_each_class_by_hand() -> None:
    # Nearest images: right, wrong; then the only query of class 1: wrong.
    similarities, labels = np.array([[0.9], [0.8], [0.7]]), np.array([[0], [1], [0]])
    neighbours = Neighbours(similarities, labels, labels)
    assert class_accuracies(neighbours, np.array([0, 0, 1]), ("a", "b"), 1, 0.1) == {"a": 50.0, "b": 0.0}
