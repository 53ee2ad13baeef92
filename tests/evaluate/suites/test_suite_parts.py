"""The parts of a suite: checkpoints' names, YAML, processes, progress."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from core.errors import UserError
from evaluate.suites import runner
from evaluate.suites.config import FOLDER, Evaluation, SuiteConfig, open_suite
from evaluate.suites.measurement import measurement_of
from evaluate.suites.plan import Checkpoint, Run, _found, parse_checkpoints, plan_runs
from evaluate.suites.progress import Progress
from evaluate.suites.runner import Slot, last_line, make_slots, run_all
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
    with pytest.raises(ValueError, match=r"data\b.*\{imagnet\}.*imagenet, coco"):
        Evaluation("knn", "knn_dino", data="folder:{imagnet}")
    with pytest.raises(ValueError, match=r"settings.*key=value"):
        Evaluation("knn", "knn_dino", settings=("ks",))
    with pytest.raises(ValueError, match="evaluations"):
        SuiteConfig(())
    with pytest.raises(UserError, match=r"\bkss\b"):
        measurement_of(Evaluation("knn", "knn_dino", settings=("kss=[1]",)), 1)
    sets = Evaluation("transfer_sets", "transfer_224px", data="cifar10:/d,dtd:/d", settings=("epochs=3",))
    changed = measurement_of(sets, 1)
    assert (changed.protocol, changed.place) == ("transfer_224px (modified: epochs=3)", "cifar10:/d,dtd:/d")


def run(folder: Path, code: str, seed: int = 0) -> Run:
    return Run(Evaluation("knn", "p"), "p", code, "c", False, seed, "online", "d", "row", folder / str(seed))


def quiet(runs: list[Run], jobs: int = 1) -> Progress:
    return Progress(runs, jobs, {}, io.StringIO())


@pytest.fixture
def python_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs execute the code in their `ckpt`; FOLDER in it is their folder."""
    monkeypatch.setattr(
        runner, "python_command",
        lambda run, _device, _workers: [sys.executable, "-c", run.ckpt.replace("FOLDER", repr(str(run.folder)))],
    )  # fmt: skip


RESULT = json.dumps({
    "format": "ssl-transfer/result/1", "protocol": "p", "kind": "knn", "metrics": {"top1": 12.34},
    "backbone": "resnet18", "seed": 0,
    "checkpoint": {"given": "x", "backbone_sha256": "d"}, "data": {"val": {"digest": "e"}}, "settings": {},
})  # fmt: skip
WRITE = f"import pathlib; pathlib.Path(FOLDER, 'result.json').write_text('{RESULT}')"
SLOT = Slot("cpu", 0, {"THREADS": "3"})


def test_several_at_once_share_the_cores_or_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    slots = make_slots(2, "cpu")
    assert [(slot.device, slot.workers, slot.environment["OMP_NUM_THREADS"]) for slot in slots] == [("cpu", 3, "4")] * 2
    assert slots[0].environment["CUDA_VISIBLE_DEVICES"] == ""
    with pytest.raises(UserError, match=r"--jobs 9 .* 8 "):
        make_slots(9, "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in make_slots(3, "cuda")] == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in make_slots(2, "cuda")] == ["5", "7"]
    with pytest.raises(UserError, match=r"--jobs 3 .*GPUs.* 2"):
        make_slots(3, "cuda")


def stored(protocol: str, place: str, seed: int = 0, digest: str = "d", key: str = "source") -> StoredResult:
    document = {
        "protocol": protocol, "seed": seed, "checkpoint": {"backbone_sha256": digest},
        "settings": {"data": {key: place}},
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
def test_a_set_is_not_another_whose_name_goes_on(source: str, other: str) -> None:
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
            "coco_maskrcnn_r50_fpn_1x_mulan (modified: solver.global_batch=2)",
            "coco_maskrcnn_r50_fpn_1x_mulan (modified: solver.global_batch=4)",
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
    assert named_as_published.folder.parent.name == named_as_published.protocol == evaluation.protocol


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


@pytest.mark.usefixtures("python_code")
def test_a_failure_stops_no_other_run_and_tells_its_last_line(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, "print('once\\rtwice\\n\\n'); raise SystemExit('error: no such folder')", 0),
        run(tmp_path, "import os; assert os.environ['THREADS'] == '3'; " + WRITE, 1),
        run(tmp_path, "print('all is well')", 2),
    ]
    out = io.StringIO()
    failures = run_all(runs, [SLOT], Progress(runs, 1, {}, out))
    assert [(failure.run.seed, failure.sentence) for failure in failures] == [
        (0, "error: no such folder"), (2, "all is well"),
    ]  # fmt: skip
    lines = out.getvalue().splitlines()
    assert lines[0] == "starts    p · c · seed 0"
    assert lines[1].startswith("FAILED    p · c · seed 0: error: no such folder")
    assert lines[3].startswith("done      p · c · seed 1: top-1 12.3 (")
    assert lines[5].endswith("; 3 of 3 runs, 2 failed")


@pytest.mark.usefixtures("python_code")
def test_a_result_that_is_no_number_or_no_result_is_a_failure_and_stops_no_other_run(tmp_path: Path) -> None:
    codes = [WRITE.replace("12.34", "NaN"), WRITE.replace(RESULT, "{"), WRITE]
    runs = [run(tmp_path, code, seed) for seed, code in enumerate(codes)]
    failures = run_all(runs, [SLOT], quiet(runs))
    assert [failure.run.seed for failure in failures] == [0, 1]
    assert "top1 of nan" in failures[0].sentence
    assert "result" in failures[1].sentence


@pytest.mark.usefixtures("python_code")
def test_several_at_once(tmp_path: Path) -> None:
    # Each waits for the other's file: one after another they would never end.
    code = (
        "import pathlib, time; me = pathlib.Path(FOLDER); (me / 'here').touch(); "
        "other = me.parent / str(1 - int(me.name)) / 'here'\n"
        "while not other.exists(): time.sleep(0.05)\n"
    )
    runs = [run(tmp_path, code + WRITE, seed) for seed in (0, 1)]
    assert run_all(runs, [SLOT, SLOT], quiet(runs, 2)) == []


@pytest.mark.usefixtures("python_code")
def test_ctrl_c_lets_the_runs_end_themselves(tmp_path: Path) -> None:
    code = (
        "import pathlib, time\n"
        "pathlib.Path(FOLDER, 'started').touch()\n"
        "try:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    pathlib.Path(FOLDER, 'saved').touch()"
    )
    runs = [run(tmp_path, code, seed) for seed in (0, 1)]

    def interrupt() -> None:
        while not (tmp_path / "0/started").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_all(runs, [SLOT], quiet(runs))
    assert (tmp_path / "0/saved").exists()
    assert not (tmp_path / "1").exists()


@pytest.mark.usefixtures("python_code")
def test_what_another_process_measures_is_left_alone(tmp_path: Path) -> None:
    runs = [run(tmp_path, WRITE, seed) for seed in (0, 1)]
    runs[0].folder.mkdir()
    with runs[0].log.open("ab") as log:  # as a run does whose suite was killed
        fcntl.flock(log, fcntl.LOCK_EX)
        failures = run_all(runs, [SLOT], quiet(runs))
    assert [(failure.run.seed, "another process" in failure.sentence) for failure in failures] == [(0, True)]
    assert (runs[1].folder / "result.json").is_file()


def test_progress_and_eta(tmp_path: Path) -> None:
    now = [0.0]
    runs = [run(tmp_path, "", seed) for seed in range(4)]
    out = io.StringIO()
    progress = Progress(runs, 2, {}, out, lambda: now[0])
    assert progress.eta() is None
    progress.started(runs[0])
    progress.started(runs[1])
    now[0] = 100.0
    progress.ended(runs[0], "top-1 1.0", failed=False)
    # One runs for 100 of 100 s, two wait for 100 s each, on two slots: both at once.
    assert progress.eta() == 100.0
    assert re.search(r"p · c · seed 0: top-1 1.0 \(1 min 40 s\); 1 of 4 runs, .*1 min 40 s left\n$", out.getvalue())
    now[0] = 130.0
    progress.tick(lambda _: "step 3")
    assert out.getvalue().count("\n") == 3  # a minute has not passed since the last line
    now[0] = 161.0
    progress.tick(lambda _: "step 4")
    assert re.search("p · c · seed 1 .*2 min 41 s: step 4$", out.getvalue().splitlines()[-1])


def test_times_of_stored_results_start_the_eta(tmp_path: Path) -> None:
    runs = [run(tmp_path, "", seed) for seed in range(4)]
    assert Progress(runs, 1, {"p": 30.0}, io.StringIO()).eta() == 120.0

    now = [0.0]
    unknown = Progress(runs, 2, {"q": 10.0}, io.StringIO(), lambda: now[0])
    assert re.fullmatch("0 of 4 runs, .*20 s left", unknown.overall())
    unknown.started(runs[0])
    now[0] = 30.0  # longer than what is known, so the others are taken to last as long
    assert unknown.eta() == 45.0


def test_last_line(tmp_path: Path) -> None:
    assert "no output" in last_line(tmp_path / "none")
    (tmp_path / "log").write_text("a\n 10%\r 20%\r\n\n")
    assert last_line(tmp_path / "log") == "20%"
