"""benchmarks/protocol_noise.py: a spread is written only if every result behind it exists."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import protocol_noise
from benchmarks.protocol_noise import ARITHMETIC, ONE_THREAD, Spread, slug, small_protocols, spread_of, write_noise
from core.config import read_yaml
from core.errors import UserError
from core.project import CONFIGS
from evaluate.common.protocol import Noise
from evaluate.tables.results import StoredResult, read_usable

LINEAR, KNN = "linear_scenes_64px", "knn_scenes_64px"
SEEDS = (50.0, 51.0, 52.0)
WAYS = {"two threads": 50.2, "AVX2 kernels": 50.4, "plain kernels": 50.6}
PLAIN = "name: a\nkind: knn\nprotocol_version: 1\ndata: {source: scenes}\n"


def store(out: Path, way: str, seed: int, top1: float, protocol: str = LINEAR, **values: Any) -> Path:
    document = {
        "format": "ssl-transfer/result/1",
        "protocol": protocol,
        "metrics": {"top1": top1},
        "backbone": "resnet18",
        "checkpoint": {"given": "x.pth", "family": "dino", "backbone_sha256": "a" * 64},
        "data": {"train": {"digest": "d"}, "val": {"digest": "d", "images": 9}},
        "seed": seed,
        **values,
    }
    path = out / slug(way) / protocol / str(seed) / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Results of the linear probe with three seeds, and of k-NN, whose seed decides nothing."""
    for protocol, values in {LINEAR: SEEDS, KNN: SEEDS[:1]}.items():
        for seed, value in enumerate(values):
            store(tmp_path, ONE_THREAD, seed, value, protocol)
        for way, value in WAYS.items():
            store(tmp_path, way, 0, value, protocol)
    return tmp_path


def stored(out: Path, *ways: str) -> Mapping[str, list[StoredResult]]:
    return {way: read_usable(out / slug(way))[0] for way in ways or ARITHMETIC}


def test_a_spread_states_what_it_rests_on(out: Path) -> None:
    """Over seeds 50, 51, 52; over ways 50, 50.2, 50.4, 50.6."""
    spread = spread_of(LINEAR, stored(out), 3)
    assert spread.noise == {"top1": Noise(1.0, 0.26)}
    ways = "one thread, two threads, AVX2 kernels and plain kernels"
    assert spread.basis == f"3 seeds; {ways}; resnet18, x.pth, weights aaaaaa"
    still = spread_of(KNN, stored(out), 3)
    assert still.noise == {"top1": Noise(0.0, 0.26)}
    assert still.basis.startswith(f"one seed, as it decides nothing; {ways}; ")


def test_only_what_was_asked_for_counts(out: Path) -> None:
    spread = spread_of(LINEAR, stored(out, ONE_THREAD, "plain kernels"), 2)
    assert spread.noise == {"top1": Noise(0.71, 0.42)}
    assert spread.basis.startswith("2 seeds; one thread and plain kernels; ")
    store(out, ONE_THREAD, 1, 90.0, LINEAR + " (modified: epochs=1)")
    store(out, "plain kernels", 1, 90.0)
    store(out, ONE_THREAD, 3, 90.0)
    assert spread_of(LINEAR, stored(out), 3).noise == {"top1": Noise(1.0, 0.26)}


@pytest.mark.parametrize(("way", "seed"), [(ONE_THREAD, 0), (ONE_THREAD, 2), ("AVX2 kernels", 0)])
@pytest.mark.parametrize("lost", ["missing", "version"])
def test_a_missing_result_is_no_smaller_spread(out: Path, way: str, seed: int, lost: str) -> None:
    path = store(out, way, seed, 50.0, protocol_version=7)  # of another version
    if lost == "missing":
        path.unlink()
    with pytest.raises(UserError, match=f"seed {seed} with {way} is missing"):
        spread_of(LINEAR, stored(out), 3)
    assert spread_of(KNN, stored(out), 3).noise


def test_one_network_and_the_same_metrics(out: Path) -> None:
    other = {"given": "y.pth", "family": "dino", "backbone_sha256": "b" * 64}
    store(out, "two threads", 0, 50.0, checkpoint=other)
    with pytest.raises(UserError, match=r"several networks; .* --out"):
        spread_of(LINEAR, stored(out), 3)
    depth: dict[str, Any] = {
        "protocol": "scenes_depth_linear",
        "kind": "depth",
        "metrics": {"rmse": 0.4, "delta1": 60.0},
    }
    for way, seed in ((ONE_THREAD, 0), (ONE_THREAD, 1), ("two threads", 0)):
        store(out, way, seed, 0.0, **depth)
    ways = (ONE_THREAD, "two threads")
    assert spread_of(depth["protocol"], stored(out, *ways), 2).noise.keys() == {"rmse", "delta1"}
    store(out, "two threads", 0, 0.0, **depth | {"metrics": {"rmse": 0.4}})
    with pytest.raises(UserError, match=r"different metrics; .* --out"):
        spread_of(depth["protocol"], stored(out, *ways), 2)


def test_the_comment_on_the_basis_is_replaced_with_the_noise(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"# a header\n{PLAIN}")
    write_noise(file, Spread({"top1": Noise(1.0, 0.25)}, f"3 seeds; {'ways and ' * 20}a\n network's name"))
    first = file.read_text()
    assert all(len(line) <= 120 for line in first.splitlines())
    assert first.startswith("# a header\nname: a\nkind: knn\nprotocol_version: 1\n# Measured with 3 seeds; ways and")
    assert read_yaml(file) == {
        "name": "a", "kind": "knn", "protocol_version": 1, "noise": {"top1": {"seeds": 1, "arithmetic": 0.25}},
        "data": {"source": "scenes"},
    }  # fmt: skip
    write_noise(file, Spread({"top1": Noise(0.0, 0.5)}, "one seed"))
    assert file.read_text() == (
        "# a header\nname: a\nkind: knn\nprotocol_version: 1\n# Measured with one seed.\nnoise:\n"
        "  top1: {seeds: 0, arithmetic: 0.5}\ndata: {source: scenes}\n"
    )
    file.write_text("name: a\n")
    with pytest.raises(UserError, match="protocol_version: 1"):
        write_noise(file, Spread({}, "one seed"))


def test_shipped_noise_states_its_basis() -> None:
    files = {name: CONFIGS / "evaluate" / f"{name}.yaml" for name in small_protocols()}
    texts = [file.read_text() for file in files.values() if "noise" in read_yaml(file)]
    assert len(texts) >= 18
    for text in texts:
        before = text.partition("\nnoise:")[0].splitlines()
        assert before[-2].startswith("# Measured with "), text
        assert before[-1].startswith("# "), text


def test_a_failed_suite_stops_it(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All results are there, and still nothing is written: the failed suite may have left others in their place."""
    started: list[str] = []

    def planted(ckpt: str, suite: Path, results: Path, seeds: int, way: str) -> list[str]:
        started.append(way)
        return ["sh", "-c", "exit 3" if way == "two threads" else "exit 0"]

    monkeypatch.setattr(protocol_noise, "command", planted)
    monkeypatch.setattr(protocol_noise, "write_noise", lambda file, spread: pytest.fail(f"{file} was written"))
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(out / "cache of all"))
    monkeypatch.setattr("sys.argv", ["x", "--ckpt", "x.pth", "--out", str(out), "--protocols", LINEAR, "--write"])
    with pytest.raises(UserError, match=r"two-threads ended with exit code 3; .* the same command again") as caught:
        protocol_noise.main()
    assert len(str(caught.value).splitlines()) == 1
    assert started == [ONE_THREAD, "two threads"]


def test_a_protocol_with_a_missing_result_is_not_written(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[str] = []
    monkeypatch.setattr(protocol_noise, "command", lambda *_: ["true"])
    monkeypatch.setattr(protocol_noise, "write_noise", lambda file, spread: written.append(file.stem))
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(out / "cache of all"))
    monkeypatch.setattr("sys.argv", ["x", "--ckpt", "x.pth", "--out", str(out), "--protocols", LINEAR, KNN, "--write"])
    store(out, ONE_THREAD, 1, 50.0).unlink()
    with pytest.raises(SystemExit) as ended:
        protocol_noise.main()
    assert ended.value.code == 1
    assert written == [KNN]
    assert f"{LINEAR}: no noise: the result of seed 1 with one thread is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [(("--seeds", "1"), "--seeds must be 2 or more"), (("--arithmetic", ONE_THREAD), "--arithmetic must have")],
)
def test_a_spread_needs_two_numbers(
    arguments: tuple[str, ...], printed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--ckpt", "x.pth", "--out", str(tmp_path / "noise"), *arguments])
    with pytest.raises(UserError, match=f"^{printed}"):
        protocol_noise.main()
    assert not (tmp_path / "noise").exists()
