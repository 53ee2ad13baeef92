"""evaluate/suites/plan.py: checkpoints, settings, and what counts as done."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import timm

from core.errors import UserError
from evaluate.common.protocol import current_version
from evaluate.suites.config import FOLDER, Evaluation, SuiteConfig, open_suite, shipped_roots
from evaluate.suites.measurement import measurement_of
from evaluate.suites.plan import Checkpoint, Run, _found, parse_checkpoints, plan_runs
from evaluate.tables.results import StoredResult


def test_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x=y.pth").touch()
    given = ["two globals=runs/a", "timm:resnet18(channels=[8])", "random init=random", "x=y.pth", "b={seed}.pth"]
    assert parse_checkpoints(given) == [
        Checkpoint("runs/a", "two globals"),
        Checkpoint("timm:resnet18(channels=[8])", ""),
        Checkpoint("random:runs/a", "random init"),
        Checkpoint("x=y.pth", ""),
        Checkpoint("{seed}.pth", "b"),
    ]
    for wrong in (["random"], ["pixels", "random"], ["runs/a", "runs/a"], ["a=x", "a=y"]):
        with pytest.raises(UserError):
            parse_checkpoints(wrong)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_suite_names_protocols_that_exist(file: Path) -> None:
    assert file.read_text().startswith("# python evaluate/suite.py --ckpts ")
    for evaluation in open_suite(file.stem).evaluations:
        placed = evaluation.resolve({name: f"/data/{name}" for name in evaluation.missing_roots({})})
        meant = measurement_of(placed, 64)  # as many processes as any protocol is for
        assert meant.protocol == evaluation.protocol, "a suite measures protocols as they are"
        assert "{" not in placed.data


def test_settings_of_a_suite(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml"):
        open_suite(str(tmp_path / "none.yaml"))
    birds = Evaluation("knn", "knn_dino", data="webdataset:{birds}/{split}.tar")
    assert SuiteConfig((birds,), {"birds": "/b"}).roots == ("birds",)
    shifted = Evaluation("ood", "ood_imagenet_224px", "folder:{imagenet}", ("shift_root={shifts}",))
    assert shifted.missing_roots({"imagenet": "/i"}) == ["shifts"]
    assert shifted.resolve({"imagenet": "/i", "shifts": "/s"}).settings == ("shift_root=/s",)
    with pytest.raises(ValueError, match=r"places.*\{bird\}.*birds"):
        SuiteConfig((birds,), {"bird": "/b"})
    assert {"imagenet", "coco", "voc"} <= set(shipped_roots())
    with pytest.raises(ValueError, match=r"settings.*key=value"):
        Evaluation("knn", "knn_dino", settings=("ks",))
    with pytest.raises(ValueError, match="evaluations"):
        SuiteConfig(())
    with pytest.raises(UserError, match=r"\bkss\b"):
        measurement_of(Evaluation("knn", "knn_dino", settings=("kss=[1]",)), 1)
    sets = Evaluation("transfer_sets", "transfer_224px", data="cifar10:/d,dtd:/d", settings=("epochs=3",))
    changed = measurement_of(sets, 1)
    assert (changed.protocol, changed.place) == ("transfer_224px (modified: epochs=3)", "cifar10:/d,dtd:/d")


def stored(protocol: str, place: str, seed: int = 0, digest: str = "d", key: str = "source") -> StoredResult:
    document = {
        "protocol": protocol, "seed": seed, "checkpoint": {"backbone_sha256": digest},
        "settings": {"data": {key: place}}, "protocol_version": current_version(protocol),
    }  # fmt: skip
    return StoredResult(Path(protocol) / str(seed) / "result.json", document)


def test_what_counts_as_done() -> None:
    knn = Evaluation("knn", "p")
    there = [stored("p", "folder:/a"), stored("p", "folder:/a", seed=1), stored("p (modified: ks=[1])", "folder:/a")]
    assert _found(knn, "p", "d", 0, "folder:/a", there) == ((there[0].path,), True)
    assert _found(knn, "p", "d", 2, "folder:/a", there) == ((), False)
    assert _found(knn, "p", "e", 0, "folder:/a", there) == ((), False)
    assert _found(knn, "p", "d", 0, "folder:/b", there) == ((), False)
    segment = Evaluation("segment", "p")
    assert _found(segment, "p", "d", 0, "/a", [stored("p", "/a", key="root")])[1]
    assert not _found(segment, "p", "d", 0, "/b", [stored("p", "/a", key="root")])[1]
    transfer, sets = Evaluation("transfer_sets", "t"), "cifar10:/d,folder:/birds"
    one, two = stored("t on cifar10", "scenes"), stored("t on folder:/birds/train", "scenes")
    assert _found(transfer, "t", "d", 0, sets, [one]) == ((one.path,), False)
    assert _found(transfer, "t", "d", 0, sets, [one, two]) == ((one.path, two.path), True)


@pytest.mark.parametrize(
    ("source", "other"),
    [
        ("cifar10:/d", "t on cifar100"),
        ("folder:/birds", "t on folder:/birds-2/train"),
        ("folder:/birds", "t on folder:/birds/more/train"),
        ("webdataset:/b/{split}.tar", "t on webdataset:/b/train.tar.gz"),
    ],
)
def test_a_set_is_not_another_with_a_longer_name(source: str, other: str) -> None:
    transfer = Evaluation("transfer_sets", "t")
    assert _found(transfer, "t", "d", 0, source, [stored(other, "scenes")]) == ((), False)


@pytest.mark.parametrize(
    ("source", "same"),
    [
        ("cifar100:/d", "t on cifar100"),
        ("folder:/birds/", "t on folder:/birds/train"),
        ("folder:/birds", "t on folder:/birds/train (20 of 50)"),
        ("webdataset:/b/{split}.tar", "t on webdataset:/b/train.tar"),
    ],
)
def test_a_set_is_known_by_its_name(source: str, same: str) -> None:
    assert _found(Evaluation("transfer_sets", "t"), "t", "d", 0, source, [stored(same, "scenes")])[1]


def test_the_same_place_is_the_same_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "in1k")
    knn, segment = Evaluation("knn", "p"), Evaluation("segment", "p")
    for written in ("in1k", "in1k/", f"{tmp_path}/in1k", "link"):
        assert _found(knn, "p", "d", 0, f"folder:{written}", [stored("p", f"folder:{tmp_path}/in1k/")])[1]
        assert _found(segment, "p", "d", 0, written, [stored("p", f"{tmp_path}/in1k", key="root")])[1]
    assert not _found(knn, "p", "d", 0, "folder:in1k", [stored("p", "webdataset:in1k")])[1]
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for no_place in ("folder:a\0b", "folder:~nobody-of-this-name/x", f"folder:{tmp_path}/circle"):
        assert not _found(knn, "p", "d", 0, "folder:in1k", [stored("p", no_place)])[1]


TINY = "random:timm:resnet18(channels=[8,8,16,16],stem=small)"


@pytest.mark.parametrize(
    ("evaluation", "alone", "two"),
    [
        (
            Evaluation("coco", "coco_maskrcnn_r50_fpn_1x_mulan", "coco:/c"),
            "coco_maskrcnn_r50_fpn_1x_mulan (modified: solver.global_batch=4)",
            "coco_maskrcnn_r50_fpn_1x_mulan (modified: solver.global_batch=8)",
        ),
        (
            Evaluation("segment", "voc_fcn_r50_20k_densecl", "/v"),
            "voc_fcn_r50_20k_densecl (modified: optim.lr=0.0025, schedule.iterations=80000, "
            "schedule.min_lr=2.5e-05, batch=4)",
            "voc_fcn_r50_20k_densecl (modified: optim.lr=0.005, schedule.iterations=40000, "
            "schedule.min_lr=5e-05, batch=8)",
        ),
        (
            Evaluation("segment", "voc_fcn_r50_20k_densecl", "/v", arguments=("--batch", "16")),
            "voc_fcn_r50_20k_densecl",
            "voc_fcn_r50_20k_densecl",
        ),
    ],
)
def test_a_dense_run_is_known_by_the_name_that_its_processes_give_it(
    evaluation: Evaluation, alone: str, two: str, tmp_path: Path
) -> None:
    def plan(there: list[StoredResult], processes: int = 1) -> Run:
        (planned,) = plan_runs([evaluation], [Checkpoint(TINY, "")], [0], "online", there, tmp_path, processes)
        return planned

    first = plan([])
    assert (first.protocol, first.complete) == (alone, False)
    key = "root" if evaluation.run == "segment" else "source"
    result = stored(alone, evaluation.data, digest=first.digest, key=key)
    again, several = plan([result]), plan([result], processes=2)
    assert (again.complete, again.results, again.folder) == (True, (result.path,), first.folder)
    assert several.protocol == two
    assert several.complete == (two == alone)
    assert (several.folder == first.folder) == (two == alone)
    named_as_published = plan([], processes=8)
    assert named_as_published.protocol == evaluation.protocol
    assert named_as_published.folder.parent.name.removesuffix("-v2") == evaluation.protocol


def test_seeds_that_decide_nothing_are_one_run(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    made = timm.create_model("resnet18", num_classes=0)
    safetensors.torch.save_file(made.state_dict(), weights)
    checkpoints = [Checkpoint(str(weights), ""), Checkpoint(TINY, ""), Checkpoint("pixels", "")]

    def seeds(evaluation: Evaluation) -> list[list[int]]:
        planned = plan_runs([evaluation], checkpoints, range(3), "online", [], tmp_path)
        return [[run.seed for run in planned if run.ckpt == each.given] for each in checkpoints]

    assert seeds(Evaluation("knn", "knn_scenes_64px")) == [[0], [0, 1, 2], [0]]
    assert seeds(Evaluation("knn", "knn_scenes_64px", settings=("shots=5",))) == [[0, 1, 2]] * 3
    assert seeds(Evaluation("linear", "linear_scenes_64px")) == [[0, 1, 2]] * 3
    assert seeds(Evaluation("linear", "linear_dino_vit_s", data="folder:/d")) == [[0, 1, 2], [0, 1, 2], []]
    assert seeds(Evaluation("transfer_sets", "transfer_224px", data="cifar10:/d")) == [[0, 1, 2]] * 3
    assert seeds(Evaluation("coco", "scenes_maskrcnn_r18_fpn_300it")) == [[0, 1, 2], [0, 1, 2], []]


def test_a_result_of_another_version_of_the_protocol_is_not_done(tmp_path: Path) -> None:
    knn, pixels = Evaluation("knn", "knn_scenes_64px"), [Checkpoint("pixels", "")]
    (planned,) = plan_runs([knn], pixels, [0], "online", [], tmp_path)
    there = stored("knn_scenes_64px", "scenes", digest=planned.digest)
    later = StoredResult(there.path, there.document | {"protocol_version": 2})
    for result, complete in ((there, True), (later, False)):
        (planned,) = plan_runs([knn], pixels, [0], "online", [result], tmp_path)
        assert planned.complete is complete
