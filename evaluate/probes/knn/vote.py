"""Votes of the neighbours: top-n accuracy of the similarity-weighted and of the majority vote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_QUERIES = 512
"""Queries per block: bounds the memory of the intermediate arrays, whatever the number of classes."""


def check_vote(ks: Sequence[int], temperature: float) -> None:
    """Raises `ValueError` for numbers of neighbours or a temperature by which no vote can be taken."""
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        raise ValueError(f"ks must be different positive numbers, at least one, not {list(ks)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")


def vote_accuracy(
    similarities: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    truth: NDArray[np.integer[Any]],
    classes: int,
    ks: Sequence[int],
    temperature: float,
) -> dict[str, float]:
    """Accuracies in percent: `weighted_top1_k10`, `weighted_top5_k10`, `majority_top1_k10`, `majority_top5_k10`, ….

    similarities, labels [Q, K]: cosines of the K ≥ max(ks) neighbours, nearest first, and their classes; truth [Q].
    Weighted: each of the k nearest adds exp(cosine / temperature) to its class ("Unsupervised Feature Learning via
    Non-Parametric Instance Discrimination", section 3.4; DINO, appendix F). Majority: each adds 1. Ties go to the
    class with the larger sum of cosines, then to the lower number; classes without a vote rank last. top-5 is the
    top-min(5, classes).
    """
    hits: dict[str, int] = {}
    for block in _blocks(len(truth)):
        cosines = similarities[block].astype(np.float64)
        weights = _weights(cosines, temperature)
        for k in ks:
            for kind, votes in (("weighted", weights[:, :k]), ("majority", np.ones((len(cosines), k)))):
                ranks = vote_ranks(labels[block, :k], votes, cosines[:, :k], truth[block], classes)
                for n in (1, 5):
                    key = f"{kind}_top{n}_k{k}"
                    hits[key] = hits.get(key, 0) + int((ranks < n).sum())
    return {key: 100.0 * count / len(truth) for key, count in hits.items()}


def weighted_hits(
    similarities: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    truth: NDArray[np.integer[Any]],
    classes: int,
    k: int,
    temperature: float,
) -> NDArray[np.bool_]:
    """True for each query [Q] whose weighted vote of the k nearest is right, as counted by `vote_accuracy`."""
    hits = np.empty(len(truth), dtype=bool)
    for block in _blocks(len(truth)):
        cosines = similarities[block, :k].astype(np.float64)
        ranks = vote_ranks(labels[block, :k], _weights(cosines, temperature), cosines, truth[block], classes)
        hits[block] = ranks < 1
    return hits


def _blocks(count: int) -> list[slice]:
    return [slice(start, start + _QUERIES) for start in range(0, count, _QUERIES)]


def _weights(cosines: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    # Relative to the nearest neighbour: no temperature overflows, and no ranking changes.
    return np.exp((cosines - cosines[:, :1]) / temperature)


def vote_ranks(
    labels: NDArray[np.integer[Any]],
    votes: NDArray[np.float64],
    cosines: NDArray[np.float64],
    truth: NDArray[np.integer[Any]],
    classes: int,
) -> NDArray[np.int64]:
    """Number of classes that beat the true one, [Q]: 0 for a correct vote, `classes` − 1 where nobody voted for it.

    labels, votes, cosines [Q, k], truth [Q]. Work and memory grow with Q · k, not with the number of classes.
    """
    count, k = labels.shape
    order = np.argsort(labels, axis=1, kind="stable")
    ordered = np.take_along_axis(labels, order, axis=1)
    starts = np.ones((count, k), dtype=bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.flatnonzero(starts)  # one entry for each pair of a query and a class that has votes
    query, label = first // k, ordered.reshape(-1)[first]
    total = np.add.reduceat(np.take_along_axis(votes, order, axis=1).reshape(-1), first)
    closeness = np.add.reduceat(np.take_along_axis(cosines, order, axis=1).reshape(-1), first)

    own = label == truth[query]
    voted = query[own]
    true_total, true_closeness = np.zeros(count), np.zeros(count)
    true_total[voted], true_closeness[voted] = total[own], closeness[own]
    ahead = total > true_total[query]
    ties = np.flatnonzero((total == true_total[query]) & ~own)
    rivals = query[ties]
    ahead[ties] = (closeness[ties] > true_closeness[rivals]) | (
        (closeness[ties] == true_closeness[rivals]) & (label[ties] < truth[rivals])
    )
    ranks = np.full(count, classes - 1, dtype=np.int64)
    ranks[voted] = np.bincount(query[ahead], minlength=count)[voted]
    return ranks
