"""Protocol, data and image size of a command without --protocol."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.config import Setting, load_config
from core.project import CONFIGS
from evaluate.common.protocol import full_name
from evaluate.common.registry import descriptions
from evaluate.probes.base import Probe
from evaluate.probes.defaults import RunData, choose_protocol, find_run_data
from pretrain.config import PretrainConfig

PROBES = {kind: probe for kind, probe in descriptions().items() if isinstance(probe, Probe)}


def chosen(probe: Probe, ckpt: str = "timm:resnet18", *overrides: str | Setting, **given: Any) -> tuple[Any, str]:
    """The resolved config and the protocol's full name."""
    arguments = argparse.Namespace(**{"ckpt": ckpt, "config": None, "protocol": None, "overrides": overrides, **given})
    file, settings = choose_protocol(probe, arguments)
    config = load_config(probe.config_class(), file, settings)
    return config, full_name(config, file, probe.performance_keys)


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_without_data_the_scenes_are_measured_as_they_are(probe: Probe) -> None:
    config, name = chosen(probe)
    assert name == probe.protocols["scenes"]
    assert config.data.source == "scenes"
    assert config.scaled_down


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_data_of_the_users_own_takes_the_full_protocol(probe: Probe) -> None:
    place = f"{probe.sources[1]}:/d"
    data: Any = [place] if probe.many_sources else place
    config, name = chosen(probe, "timm:resnet18", Setting(probe.data_key, data))
    assert (name, config.scaled_down) == (probe.protocols[""], False)


def test_a_named_protocol_and_a_file_count() -> None:
    knn = PROBES["knn"]
    assert chosen(knn, protocol="knn_mulan")[1] == "knn_mulan"
    assert chosen(knn, config=CONFIGS / "evaluate/knn_dino_1shot.yaml")[1] == "knn_dino_1shot"


@pytest.mark.parametrize("recipe", sorted((CONFIGS / "pretrain").glob("*.yaml")), ids=lambda file: file.stem)
@pytest.mark.parametrize("probe", [probe for probe in PROBES.values() if probe.run_data], ids=lambda probe: probe.kind)
def test_a_run_folder_is_measured_on_its_own_data_and_size(probe: Probe, recipe: Path, tmp_path: Path) -> None:
    config = load_config(PretrainConfig, recipe)
    write_run(tmp_path, source=config.data.source, size=config.views["global"].size, scenes=config.data.scenes.size)
    found, name = chosen(probe, str(tmp_path))
    kind = config.data.source.partition(":")[0]
    assert name.partition(" (")[0] == probe.protocols.get(kind, probe.protocols[""])
    sources = found.sets if probe.many_sources else (found.data.source,)
    assert config.data.source in sources
    assert found.features.transform.crop == config.views["global"].size
    if kind == "folder":
        assert name == probe.protocols[""], "another place is the same protocol"


@pytest.mark.parametrize("probe", [probe for probe in PROBES.values() if not probe.run_data], ids=lambda p: p.kind)
def test_a_run_folder_decides_nothing_where_its_data_has_no_labels_for_pixels(probe: Probe, tmp_path: Path) -> None:
    write_run(tmp_path, source="folder:/d", size=32, scenes=32)
    assert chosen(probe, str(tmp_path))[1] == probe.protocols["scenes"]


def write_run(folder: Path, source: str, size: int, scenes: int) -> None:
    values = {"data": {"source": source, "scenes": {"size": scenes}}, "views": {"global": {"size": size}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))


def test_other_scenes_and_sizes_of_a_run_stand_in_the_name(tmp_path: Path) -> None:
    write_run(tmp_path, "scenes", 96, 128)
    config, name = chosen(PROBES["knn"], f"random:{tmp_path}", "ks=[5]")
    assert (config.data.scenes.size, config.features.transform.resize, config.features.transform.crop) == (128, 96, 96)
    assert name.startswith("knn_scenes_64px (modified: ")
    assert all(part in name for part in ("data.scenes.size=128", "features.transform.crop=96", "ks=[5]"))
    write_run(tmp_path, "folder:/d", 96, 128)
    (tmp_path / "backbone.safetensors").touch()
    config, _ = chosen(PROBES["knn"], str(tmp_path / "backbone.safetensors"))
    assert (config.data.source, config.features.transform.resize) == ("folder:/d", 110)  # 96 × 256 / 224
    assert chosen(PROBES["knn"], str(tmp_path), "features.transform.crop=32")[0].features.transform.crop == 32


def test_what_is_not_a_run_has_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_run_data("timm:resnet18(pretrained)") is None
    assert find_run_data(str(tmp_path / "none.pth")) is None
    (tmp_path / "config.yaml").write_text("model: x\n")
    assert find_run_data(str(tmp_path)) is None
    (tmp_path / "config.yaml").write_text("{")
    assert find_run_data(str(tmp_path)) is None
    write_run(tmp_path, "scenes", 64, 64)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.pt").touch()
    assert find_run_data(str(tmp_path / "checkpoints/last.pt")) == RunData("scenes", {"size": 64}, 64)
    monkeypatch.chdir(tmp_path)
    for given in ("timm:resnet18", "pixels", "random:timm:resnet18"):
        assert find_run_data(given) is None, "the working directory is not the run of a network without a file"
