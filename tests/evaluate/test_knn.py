"""evaluate/knn.py and its parts: search against brute force, votes against scikit-learn, ranks against one process."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray

from core.config import load_config
from core.distributed import Processes
from core.errors import UserError, run_entry_point
from core.features import EvalTransformConfig, Features
from evaluate.knn import main
from evaluate.knn_protocol import (
    NEUTRAL_KEYS,
    KnnConfig,
    accuracies,
    find_neighbours,
    knn_accuracy,
    open_bank_and_queries,
)
from evaluate.neighbours import draw_neighbours
from evaluate.protocol import full_name, other_result, protocol_file, result_folder
from evaluate.search import Neighbours, nearest, nearest_over_ranks, open_engine
from evaluate.vote import ranks_of_truth, vote_accuracy
from tests.evaluate.knn_of_a_rank import KS, measure
from tests.torchrun import python, torchrun

ALONE = Processes(0, 1, torch.device("cpu"))


def unit_rows(count: int, width: int, seed: int) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def features(values: NDArray[Any], labels: Any, classes: int, name: str = "set") -> Features:
    names = tuple(f"c{i}" for i in range(classes))
    return Features(values, np.asarray(labels, np.int64), np.arange(len(values)), name, names, ())


# Search


@pytest.mark.parametrize("storage", [np.float32, np.float16])
@pytest.mark.parametrize("k", [1, 7, 150])
def test_search_equals_brute_force(storage: type, k: int) -> None:
    bank, queries = unit_rows(900, 24, 0).astype(storage), unit_rows(1100, 24, 1).astype(storage)
    similarities, rows = nearest(open_engine(ALONE), bank, queries, k, chunk=128)
    products = queries.astype(np.float64) @ bank.astype(np.float64).T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :k]
    assert (rows == expected).mean() > 0.9999  # float32 sums may swap two neighbours that are equal to seven digits
    np.testing.assert_allclose(similarities, np.take_along_axis(products, expected, axis=1), atol=1e-6)


def test_a_list_longer_than_the_bank_ends_in_nothing() -> None:
    similarities, rows = nearest(open_engine(ALONE), unit_rows(3, 8, 0), unit_rows(2, 8, 1), 5)
    assert (rows[:, 3:] == -1).all()
    assert (similarities[:, 3:] == -np.inf).all()
    assert sorted(rows[0, :3].tolist()) == [0, 1, 2]
    assert (nearest(open_engine(ALONE), unit_rows(3, 8, 0)[:0], unit_rows(2, 8, 1), 2)[1] == -1).all()


@pytest.mark.parametrize(("storage", "share"), [(np.float32, 0.2), (np.float16, 0.5)])
def test_search_and_vote_copy_no_bank(storage: type, share: float) -> None:
    bank = features(unit_rows(40_000, 256, 0).astype(storage), np.arange(40_000) % 10, 10)
    queries = features(unit_rows(1500, 256, 1), np.arange(1500) % 10, 10)
    engine = open_engine(ALONE)
    tracemalloc.start()
    neighbours = nearest_over_ranks(engine, bank, queries, 50, ALONE, chunk=4096)
    accuracies(neighbours, queries.labels, 10, (10, 50), 0.07)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < share * bank.values.nbytes


@pytest.mark.parametrize("all_gpus", [False, True])
def test_gpus_divide_the_bank(monkeypatch: pytest.MonkeyPatch, all_gpus: bool) -> None:
    """With a FAISS whose three GPUs are the CPU: the arithmetic around `knn_gpu`, not `knn_gpu` itself."""
    import faiss

    used = []

    def knn_gpu(resources: Any, queries: Any, bank: Any, k: int, metric: Any, device: int) -> Any:
        assert k <= len(bank)
        used.append(device)
        return faiss.knn(queries, bank, k, metric=metric)

    fake = SimpleNamespace(
        get_num_gpus=lambda: 3,
        StandardGpuResources=object,
        knn_gpu=knn_gpu,
        METRIC_INNER_PRODUCT=faiss.METRIC_INNER_PRODUCT,
        __version__="0",
    )
    bank, queries = unit_rows(100, 16, 0), unit_rows(30, 16, 1)
    expected = nearest(open_engine(ALONE), bank, queries, 20)
    monkeypatch.setitem(sys.modules, "faiss", fake)
    engine = open_engine(Processes(0, 1, torch.device("cuda", 1)), all_gpus)
    assert engine.name == ("FAISS 0 on 3 GPUs" if all_gpus else "FAISS 0 on 1 GPU")
    found = nearest(engine, bank, queries, 20, chunk=37)
    assert np.array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    assert set(used) == ({0, 1, 2} if all_gpus else {1})


def test_missing_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'ssl-transfer\[faiss-cpu\]'"):
        open_engine(ALONE)


# Votes


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
        return ranks_of_truth(np.array([labels] * 4), np.ones(cosines.shape), cosines, np.arange(4), 4).tolist()

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
            ranks_of_truth(neighbours.labels, np.exp(cosines / temperature), cosines, np.full(700, c), classes)
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


# Mistakes


def test_library_errors() -> None:
    bank, queries = features(unit_rows(9, 4, 0), [0, 1, 2] * 3, 3, "bank"), features(unit_rows(2, 4, 1), [0, 1], 3, "q")
    with pytest.raises(UserError, match=r"k=10 is more than the bank's 9 images \(bank\); lower k \(ks=\[9\]\)"):
        knn_accuracy(bank, queries, ALONE, (3, 10))
    with pytest.raises(UserError, match="no queries: q has no usable image"):
        knn_accuracy(bank, features(queries.values[:0], [], 3, "q"), ALONE, (3,))
    with pytest.raises(UserError, match="bank has no labels, which k-NN needs"):
        knn_accuracy(features(bank.values, [-1] * 9, 0, "bank"), queries, ALONE, (3,))
    with pytest.raises(UserError, match="bank has the single class c0; k-NN needs at least two"):
        knn_accuracy(features(bank.values, [0] * 9, 1, "bank"), features(queries.values, [0, 0], 1), ALONE, (3,))
    with pytest.raises(UserError, match="class 2 of the queries q is c2, but absent in the bank bank"):
        knn_accuracy(features(bank.values, [0, 1, 1] * 3, 2, "bank"), queries, ALONE, (3,))
    with pytest.raises(ValueError, match="features of bank must have unit length"):
        knn_accuracy(features(2 * bank.values, bank.labels, 3, "bank"), queries, ALONE, (3,))
    with pytest.raises(UserError, match="fewer than 3 neighbours found in bank: the features are not finite"):
        knn_accuracy(features(np.full_like(bank.values, np.nan), bank.labels, 3, "bank"), queries, ALONE, (3,))


def test_data_errors(image_folder: Path, tmp_path: Path) -> None:
    def opened(root: Path, *overrides: str) -> Any:
        return open_bank_and_queries(load_config(KnnConfig, None, [f"data.source=folder:{root}", *overrides]), 0)

    bank, queries = opened(image_folder, "ks=[4]", "shots=2", "query_limit=5")
    assert (len(bank), len(queries)) == (4, 5)
    assert [bank.label(i) for i in range(4)] == [0, 0, 1, 1]
    assert len(opened(image_folder, "ks=[4]", "bank_limit=7")[0]) == 7
    with pytest.raises(UserError, match=r"k=200 is more than the bank's 12 images"):
        opened(image_folder)
    with pytest.raises(UserError, match=r"7 shots asked for, but class cat .* has 6 images"):
        opened(image_folder, "ks=[4]", "shots=7")
    flat = tmp_path / "flat"
    for split in ("train", "val"):
        shutil.copytree(image_folder / "train" / "cat", flat / split)
    with pytest.raises(UserError, match="flat/train has no labels, which k-NN needs"):
        opened(flat, "ks=[4]", "shots=1")
    other = tmp_path / "other"
    shutil.copytree(image_folder / "train", other / "train")
    shutil.copytree(image_folder / "train" / "dog", other / "val" / "cow")
    with pytest.raises(UserError, match=r"class 0 of the queries .* is cow, but cat in the bank"):
        opened(other, "ks=[4]")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ks=[]", r"ks must be different positive numbers, at least one, not \[\]"),
        ("ks=[5,5]", r"ks must be different positive numbers, at least one, not \[5, 5\]"),
        ("temperature=0", "temperature must be positive, not 0"),
        ("shots=0", "shots must be at least 1, not 0"),
        ("name=a/b", "name must consist of letters, digits, '_', '-' and '.', not 'a/b'"),
        ("features.storage=int8", "features.storage on the command line: must be 'float32' or 'float16'"),
    ],
)
def test_impossible_settings(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(KnnConfig, None, [override])


# Protocols and results


def test_every_protocol_of_the_repository_loads_under_its_own_name() -> None:
    files = sorted(Path(__file__).parents[2].glob("configs/evaluate/knn_*.yaml"))
    assert {file.stem for file in files} >= {"knn_dino", "knn_dino_1shot", "knn_scenes_64px", "knn_fashion_mnist_32px"}
    for file in files:
        config = load_config(KnnConfig, file)
        assert config.name == file.stem == full_name(config, file, NEUTRAL_KEYS)
        assert protocol_file(file.stem, "knn") == file
    dino = load_config(KnnConfig, protocol_file("knn_dino", "knn"))
    assert dino == KnnConfig()  # the defaults are the published protocol
    with pytest.raises(UserError, match="no protocol 'knn_dinos' of knn; did you mean knn_dino"):
        protocol_file("knn_dinos", "knn")


def test_a_modified_protocol_loses_the_bare_name(tmp_path: Path) -> None:
    file = protocol_file("knn_dino", "knn")

    def name(*overrides: str, file: Path = file) -> str:
        return full_name(load_config(KnnConfig, file, overrides), file, NEUTRAL_KEYS)

    assert name("ks=[1,20]", "features.transform.crop=96") == (
        "knn_dino (modified: features.transform.crop=96, ks=[1,20])"
    )
    assert name("data.source=scenes") == "knn_dino (modified: data.source=scenes)"
    for unchanged in (
        "data.source=folder:/mnt/in1k", "data.source=webdataset:/d/in1k-{split}-{000..127}.tar",
        "features.batch=7", "bank_chunk=9", "temperature=0.07", "ks=[10,20,100,200]",
    ):  # fmt: skip
        assert name(unchanged) == "knn_dino"
    own = tmp_path / "own.yaml"
    own.write_text("name: knn_dino\nks: [5]\n")
    assert name(file=own) == "knn_dino (modified: ks=[5])"
    own.write_text("name: mine\nks: [5]\n")
    assert name(file=own) == "mine"
    assert name("shots=1", file=own) == "mine (modified: shots=1)"


def test_results_of_different_measurements_never_share_a_file(tmp_path: Path) -> None:
    folders = {
        result_folder(protocol, digest * 64, seed)
        for protocol in ("knn", "knn (modified: ks=[5])", "knn (modified: ks=[6])")
        for digest in "ab"
        for seed in (0, 1)
    }
    assert len(folders) == 12
    assert result_folder("knn", "ab" * 32, 3) == Path("results/knn/abababababab-seed3")

    path = tmp_path / "result.json"
    assert other_result(path, "knn", "a", 0, ["x", "y"]) == ""
    parts = {"bank": {"digest": "x"}, "queries": {"digest": "y"}}
    path.write_text(json.dumps({"protocol": "knn", "checkpoint": {"backbone_sha256": "a"}, "seed": 0, "data": parts}))
    assert other_result(path, "knn", "a", 0, ["y", "x"]) == ""
    refused = other_result(path, "knn", "a", 1, ["x", "z"])
    assert "holds another result (knn, backbone a, seed 0; different here: seed, data)" in refused
    assert "different here: protocol, backbone)" in other_result(path, "knn (modified: k)", "b", 0, ["x", "y"])
    path.write_text("[]")
    assert "is not a result of this project" in other_result(path, "knn", "a", 0, [])


# Several processes


def test_two_ranks_equal_one(image_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(image_folder, tmp_path / "images")
    for name in ("train/cat/0.jpg", "train/cat/3.jpg", "val/dog/5.jpg"):
        (tmp_path / "images" / name).write_bytes(b"no image")
    done = torchrun(Path(__file__).parent / "knn_of_a_rank.py", str(tmp_path / "images"), str(tmp_path / "found"))
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"found.{rank}").read_text()) for rank in range(2)]
    assert ranks[0] == ranks[1]
    for found, storage in zip(ranks[0], ("float32", "float16"), strict=True):
        expected = measure(tmp_path / "images", ALONE, storage)
        np.testing.assert_allclose(found.pop("similarities"), expected.pop("similarities"), atol=1e-6)
        assert found == expected
        assert expected["broken"] == [2, 1]
        assert len(expected["queries"]) == 11
        assert set(expected["metrics"]) >= {f"weighted_top1_k{k}" for k in KS}


# The front door


BACKBONE = "timm:resnet18(channels=[8,8,16,24], stem=small)"


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nks: [1, 5]\nfeatures: {transform: {resize: 36, crop: 32}, batch: 8}\n")
    return path


def arguments(image_folder: Path, protocol: Path, *more: str) -> list[str]:
    data = f"folder:{image_folder}"
    return ["--ckpt", BACKBONE, "--config", str(protocol), "--data", data, "--workers", "0", *more]


def test_a_run_alone_and_a_run_of_two_processes_write_the_same(
    image_folder: Path, protocol: Path, tmp_path: Path
) -> None:
    script, out = Path(__file__).parents[2] / "evaluate" / "knn.py", tmp_path / "out"
    given = arguments(image_folder, protocol, "--out", str(out), "--neighbours", str(tmp_path / "near.png"))
    done = python(str(script), *given)
    assert done.returncode == 0, done.stderr
    plan = done.stdout.splitlines()[:7]
    assert plan[0] == "protocol  own"
    assert BACKBONE in plan[1]
    assert plan[2] == "weights   none loaded"  # a random baseline
    assert plan[3].startswith("features  24 per image (auto), float32; resize 36, crop 32")
    assert plan[4].startswith(f"bank      folder:{image_folder}/train: 12 images, 2 classes")
    result = json.loads((out / "result.json").read_text())
    assert result["protocol"] == "own"
    assert result["settings"]["ks"] == [1, 5]
    assert {part: facts["images"] for part, facts in result["data"].items()} == {"bank": 12, "queries": 12}
    assert set(result["metrics"]) == {"top1", "top5", "k"} | {
        f"{kind}_top{n}_k{k}" for kind in ("weighted", "majority") for n in (1, 5) for k in (1, 5)
    }
    assert f"{result['metrics']['weighted_top1_k5']:.2f}" in done.stdout.split("top-5\n")[1]
    with PIL.Image.open(tmp_path / "near.png") as picture:
        assert picture.size == (16 + 6 * 104, 30 + 8 * 120 + 8)

    together = torchrun(script, *given)
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("protocol  own") == 1
    again = json.loads((out / "result.json").read_text())
    assert again["date"] > result["date"]
    for key in ("metrics", "data", "checkpoint", "protocol", "settings"):
        assert again[key] == result[key]


def test_help_is_quick() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python("evaluate/knn.py", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert "example: python evaluate/knn.py --ckpt runs/r50" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["ks=[1,13]"], "k=13 is more than the bank's 12 images"),
        (["features.pooling=cls"], "pooling cls is for ViTs; a ResNet has only avg"),
        (["--network", "target", "--ckpt", "nowhere"], "no checkpoint nowhere"),
        (["kss=[1]"], "unknown key kss on the command line; did you mean ks?"),
        (["--seed", "-1"], "--seed must be 0 or more, not -1"),
        (["--neighbours", "near.jpg"], "--neighbours near.jpg must end in .png"),
        (["--data", "folder:/nowhere"], "no folder /nowhere"),
        (["temperature=0.1"], "holds another result (own, backbone"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    image_folder: Path,
    protocol: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    parts = {"bank": {"digest": "x"}, "queries": {"digest": "y"}}
    there = {"protocol": "own", "checkpoint": {"backbone_sha256": "a"}, "seed": 0, "data": parts}
    (tmp_path / "result.json").write_text(json.dumps(there))
    monkeypatch.setattr(sys, "argv", ["knn.py", *arguments(image_folder, protocol, "--out", str(tmp_path)), *more])
    with pytest.raises(SystemExit) as stopped:
        run_entry_point(main)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert json.loads((tmp_path / "result.json").read_text()) == there


# The picture


def test_frames_tell_right_from_wrong(image_folder: Path, tmp_path: Path) -> None:
    from core.data.folder import Folder

    bank, images = Folder(image_folder / "train", "bank"), Folder(image_folder / "val", "queries")
    queries = Features(np.zeros((1, 4), np.float32), np.array([1]), np.array([7]), "queries", images.classes, ())
    neighbours = Neighbours(
        np.array([[0.9, 0.8]], np.float32), np.array([[1, 0]], np.int32), np.array([[6, 0]], np.int32)
    )
    path = tmp_path / "near.png"
    draw_neighbours(path, bank, images, queries, neighbours, EvalTransformConfig(36, 32), "a title", seed=0)
    with PIL.Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    frames = [tuple(pixels[30 + 1, left + 1]) for left in (8, 120, 224)]
    assert frames == [(30, 30, 30), (34, 160, 70), (205, 45, 45)]
    from core.features import eval_crop

    shown = eval_crop(bank.image(6), EvalTransformConfig(36, 32))
    assert np.array_equal(pixels[34, 124], shown[0, 0])
