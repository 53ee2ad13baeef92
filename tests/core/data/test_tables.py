"""core/data/readers/{tables,hf,parquet}.py: the same images and labels as the folder that the tables were made from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.config import Setting, load_config
from core.data.account import account_of
from core.data.open import DataConfig, open_images, split_sources
from core.errors import BrokenImage, UserError

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def contents(split: Path) -> list[dict[str, Any]]:
    files = sorted(split.glob("*/*.jpg"))
    return [{"bytes": file.read_bytes(), "path": f"{file.parent.name}/{file.name}"} for file in files]


def write(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=5)
    return path


@pytest.fixture
def hub(image_folder: Path, tmp_path: Path) -> Path:
    """A folder as the hub has it: features in the files' metadata, splits `train` (two files) and `validation`."""
    root = tmp_path / "pets"
    features = datasets.Features(
        {"img": datasets.Image(), "fine": datasets.ClassLabel(names=["cat", "dog"]), "text": datasets.Value("string")}
    )
    for split, name in (("train", "train"), ("val", "validation")):
        images = contents(image_folder / split)
        columns = {"img": images, "fine": [0] * 6 + [1] * 6, "text": ["x"] * 12}
        rows = datasets.Dataset.from_dict(columns, features=features)
        (root / "data").mkdir(parents=True, exist_ok=True)
        for part in range(2 if split == "train" else 1):
            part_of = rows.shard(2, part, contiguous=True) if split == "train" else rows
            part_of.to_parquet(str(root / f"data/{name}-{part:05d}-of-00002.parquet"))
    return root


@pytest.mark.parametrize("kind", ["hf", "parquet"])
def test_a_table_equals_its_folder(image_folder: Path, hub: Path, kind: str) -> None:
    source = f"hf:{hub}" if kind == "hf" else f"parquet:{hub}/data/{{split}}-*.parquet"
    for split in ("pretrain", "train", "val"):
        folder = open_images(DataConfig(f"folder:{image_folder}"), split, 0)
        table = open_images(DataConfig(source), split, 0)
        assert (len(table), table.classes) == (12, ("cat", "dog"))
        assert [table.label(row) for row in range(12)] == [folder.label(row) for row in range(12)]
        for row in (0, 5, 6, 11):
            assert np.array_equal(np.asarray(table.image(row)), np.asarray(folder.image(row)))
        assert table.digest().endswith(":content")
        assert account_of(table).skipped == {}
    if kind == "parquet":
        assert open_images(DataConfig(source), "train", 0).describe(7).endswith("train-00001-of-00002.parquet#1")


def test_digests_are_of_content(hub: Path, tmp_path: Path) -> None:
    of_hub = open_images(DataConfig(f"hf:{hub}"), "train", 0).digest()
    assert open_images(DataConfig(f"parquet:{hub}/data/{{split}}-*.parquet"), "train", 0).digest() == of_hub
    datasets.load_dataset(str(hub)).save_to_disk(str(tmp_path / "saved"))
    assert open_images(DataConfig(f"hf:{tmp_path / 'saved'}"), "train", 0).digest() == of_hub
    file = hub / "data/train-00001-of-00002.parquet"
    rows = pq.read_table(file)
    pq.write_table(rows.take(list(range(len(rows)))[::-1]), file)
    assert open_images(DataConfig(f"parquet:{hub}/data/{{split}}-*.parquet"), "train", 0).digest() != of_hub


def test_the_cache_of_the_hub_is_used_offline(hub: Path, tmp_path: Path) -> None:
    """A prepared data set, laid as `datasets` keeps one of the hub: NAMESPACE___NAME/CONFIG/VERSION/COMMIT."""
    prepared = datasets.load_dataset(str(hub), cache_dir=str(tmp_path / "elsewhere"))["train"].cache_files[0]
    kept = tmp_path / "hf/somebody___pets/default/0.0.0" / ("a" * 40)
    shutil.copytree(Path(prepared["filename"]).parent, kept)
    images = open_images(DataConfig("hf:somebody/pets"), "train", 0)
    assert images.digest() == open_images(DataConfig(f"hf:{hub}"), "train", 0).digest()
    assert images.describe(2) == "hf:somebody/pets[train]#2"
    with pytest.raises(UserError, match="other"):
        open_images(DataConfig("hf:somebody/pets:other"), "train", 0)


def test_an_image_folder_of_datasets_names_its_files(image_folder: Path, tmp_path: Path) -> None:
    images = open_images(DataConfig(f"hf:{image_folder}"), "train", 0)
    assert np.asarray(images.image(3)).shape == (40, 48, 3)
    digest = images.digest()
    outside = tmp_path / "outside.parquet"
    secret = str(next(image_folder.rglob("*.jpg")))
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    write(outside, image=pa.array([{"bytes": None, "path": secret}], kind), label=[0])
    with pytest.raises(BrokenImage, match="outside"):
        open_images(DataConfig(f"parquet:{outside}"), "pretrain", 0).image(0)
    assert digest.partition(":")[2] == "content"


def test_names_and_numbers_are_labels(image_folder: Path, tmp_path: Path) -> None:
    content = [each["bytes"] for each in contents(image_folder / "train")]
    write(tmp_path / "train.parquet", picture=content, kind=["b", "a"] * 6, number=[3, 0] * 6)
    named = open_images(DataConfig(f"parquet:{tmp_path}/{{split}}.parquet?label=kind"), "train", 0)
    assert (named.classes, named.label(0), named.label(1)) == (("a", "b"), 1, 0)
    numbered = open_images(DataConfig(f"parquet:{tmp_path}/{{split}}.parquet?image=picture&label=number"), "train", 0)
    assert (numbered.classes, numbered.label(0)) == (("0", "1", "2", "3"), 3)
    assert named.digest() != numbered.digest()
    assert open_images(DataConfig(f"parquet:{tmp_path}/train.parquet"), "pretrain", 0).classes == ()


def test_broken_rows_are_broken_images(image_folder: Path, tmp_path: Path) -> None:
    good = contents(image_folder / "train")[0]["bytes"]
    file = write(tmp_path / "train.parquet", image=[good, b"no image", None], label=[0, 1, 0])
    images = open_images(DataConfig(f"parquet:{file}"), "pretrain", 0)
    assert images.image(0).size == (48, 40)
    for row in (1, 2):
        with pytest.raises(BrokenImage, match=rf"train.parquet#{row}"):
            images.image(row)
    assert images.conversions(1) == ()


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("?label=breed", "breed"),
        ("?image=breed", "breed"),
        ("?image=label", "label"),
        ("?label=price", "price"),
        ("?label=gap", "gap"),
        ("?label=huge", "huge"),
        ("?labels=x", "labels"),
        ("?label=", "label"),
    ],
)
def test_columns_that_do_not_fit_are_refused(image_folder: Path, tmp_path: Path, option: str, named: str) -> None:
    content = [each["bytes"] for each in contents(image_folder / "train")][:2]
    columns = {"label": [0, 1], "price": [0.5, 1.5], "gap": [0, None], "huge": [0, 10**9]}
    write(tmp_path / "train.parquet", image=content, **columns)
    with pytest.raises(UserError, match=named):
        open_images(load_config(DataConfig, None, [Setting("source", f"parquet:{tmp_path}/{{split}}.parquet{option}")]),
                    "train", 0)  # fmt: skip


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("hf:{root}:other", "other"),
        ("hf:{root}?val=test", "validation"),
        ("hf:nobody/nothing", "nobody/nothing"),
        ("parquet:{root}", "hf:"),
        ("parquet:{root}/data/validation-00000-of-00002.parquet", "split"),
        ("parquet:{root}/{{split}}.parquet", "empty.parquet|val.parquet"),
        ("parquet:{root}/x-{{split}}.parquet", "x-val.parquet"),
        ("parquet:{root}/none-{{split}}.parquet", "none-val.parquet"),
    ],
)
def test_missing_data_is_refused(hub: Path, source: str, named: str) -> None:
    (hub / "val.parquet").write_bytes(b"")
    (hub / "x-val.parquet").write_bytes(b"PAR1 no parquet file")
    write(hub / "none-val.parquet", image=pa.array([], pa.binary()), label=pa.array([], pa.int64()))
    with pytest.raises(UserError, match=named):
        open_images(DataConfig(source.format(root=hub)), "val", 0)


def test_without_the_extra_it_is_named(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"\[hf\]"):
        open_images(DataConfig(f"hf:{hub}"), "val", 0)


def test_lists_of_sources_take_tables() -> None:
    given = "hf:a/b:c?label=x,parquet:/d/{split}-*.parquet,scenes"
    assert split_sources(given) == ("hf:a/b:c?label=x", "parquet:/d/{split}-*.parquet", "scenes")
