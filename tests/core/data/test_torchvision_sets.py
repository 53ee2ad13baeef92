"""core/data/readers/torchvision_sets.py on small sets laid out as torchvision wants them."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import scipy.io
import torchvision.datasets as datasets

from core.config import load_config
from core.data.base import ImageSet
from core.data.open import DataConfig, open_images
from core.data.readers.torchvision_sets import SETS
from core.errors import BrokenImage, UserError
from tests.small_sets import MAKERS, make_caltech101, picture, text


def opened(kind: str, root: Path) -> tuple[ImageSet, ImageSet]:
    config = DataConfig(f"{kind}:{root}")
    return open_images(config, "train", 0), open_images(config, "val", 0)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_a_set_is_read_and_divided(kind: str, tmp_path: Path) -> None:
    make, train_count, val_count, classes = MAKERS[kind]
    make(tmp_path)
    train, val = opened(kind, tmp_path)
    assert (len(train), len(val)) == (train_count, val_count)
    assert train.classes == val.classes == classes
    files = [[images.describe(index) for index in range(len(images))] for images in (train, val)]
    assert len(set(files[0] + files[1])) == train_count + val_count  # nothing is in both
    for images, count in ((train, train_count), (val, val_count)):
        labels = [images.label(index) for index in range(count)]
        assert np.bincount(labels).tolist() == [count // 2, count // 2]
        for index in (0, count - 1):
            with PIL.Image.open(images.describe(index)) as expected:
                assert np.array_equal(np.asarray(images.image(index)), np.asarray(expected.convert("RGB")))
            assert classes[labels[index]].split("/")[0].lower() in images.describe(index).lower() or kind == "aircraft"
    again = opened(kind, tmp_path)[0]
    assert again.digest() == train.digest() != val.digest()
    Path(train.describe(0)).write_bytes(b"no image")
    damaged = opened(kind, tmp_path)[0]
    assert damaged.digest() != train.digest()
    with pytest.raises(BrokenImage, match="cannot identify"):
        damaged.image(0)


def test_cifar_and_stl10_from_their_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)

    def batch(path: Path, content: bytes) -> list[str]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return [path.name, hashlib.md5(content).hexdigest()]

    folder = tmp_path / "cifar-10-batches-py"
    data = pickle.dumps({"data": pixels.reshape(4, -1), "labels": [0, 1, 1, 0]})
    meta = pickle.dumps({"label_names": ["plane", "car"]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [batch(folder / "data_batch_1", data)])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [batch(folder / "test_batch", data)])
    name, md5 = batch(folder / "batches.meta", meta)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    train, _ = opened("cifar10", tmp_path)
    assert (train.classes, [train.label(index) for index in range(4)]) == (("plane", "car"), [0, 1, 1, 0])
    assert np.array_equal(np.asarray(train.image(2)), pixels[2].transpose(1, 2, 0))
    assert train.describe(2) == "cifar10:train#2"

    folder = tmp_path / "cifar-100-python"
    data = pickle.dumps({"data": pixels.reshape(4, -1), "fine_labels": [2, 0, 1, 0], "coarse_labels": [0, 0, 0, 0]})
    meta = pickle.dumps({"fine_label_names": ["apple", "bear", "cloud"], "coarse_label_names": ["thing"]})
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [batch(folder / "train", data)])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [batch(folder / "test", data)])
    name, md5 = batch(folder / "meta", meta)
    monkeypatch.setattr(datasets.CIFAR100, "meta", {"filename": name, "key": "fine_label_names", "md5": md5})
    train, _ = opened("cifar100", tmp_path)
    assert (train.classes, [train.label(index) for index in range(4)]) == (("apple", "bear", "cloud"), [2, 0, 1, 0])
    assert np.array_equal(np.asarray(train.image(3)), pixels[3].transpose(1, 2, 0))

    coarse, _ = opened("cifar100-20", tmp_path)
    assert [coarse.classes[coarse.label(index)] for index in range(3)] == [
        "large_natural_outdoor_scenes", "fruit_and_vegetables", "large_carnivores"
    ]  # fmt: skip
    assert len(coarse.classes) == 20
    assert coarse.name == "cifar100-20:train"
    assert coarse.digest() != train.digest()

    folder = tmp_path / "stl10_binary"
    big = rng.integers(0, 256, (2, 3, 96, 96), dtype=np.uint8)
    for kind in ("train", "test"):
        images = batch(folder / f"{kind}_X.bin", big.transpose(0, 1, 3, 2).tobytes())
        labels = batch(folder / f"{kind}_y.bin", bytes([2, 1]))
        monkeypatch.setattr(datasets.STL10, f"{kind}_list", [images, labels])
    unlabelled = rng.integers(0, 256, (3, 3, 96, 96), dtype=np.uint8)
    more = batch(folder / "unlabeled_X.bin", unlabelled.transpose(0, 1, 3, 2).tobytes())
    monkeypatch.setattr(datasets.STL10, "train_list", [*datasets.STL10.train_list, more])
    text(folder / "class_names.txt", ["airplane", "bird"])
    stl, _ = opened("stl10", tmp_path)
    assert (stl.classes, [stl.label(0), stl.label(1)]) == (("airplane", "bird"), [1, 0])
    assert np.array_equal(np.asarray(stl.image(0)), big[0].transpose(1, 2, 0))
    whole = open_images(DataConfig(f"stl10:{tmp_path}"), "pretrain", 0)
    assert (whole.name, len(whole)) == ("stl10:train+unlabelled", 5)
    assert np.array_equal(np.asarray(whole.image(4)), unlabelled[2].transpose(1, 2, 0))


def test_flowers102_from_its_matlab_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "flowers-102"
    for number in range(1, 7):
        picture(folder / f"jpg/image_{number:05d}.jpg", number)
    lists = {"label": {"labels": [3, 1, 2, 2, 1, 3]}, "setid": {"trnid": [1, 6], "valid": [2, 4], "tstid": [5, 3]}}
    files = {"image": ("102flowers.tgz", "")}
    for what, content in lists.items():
        path = folder / f"{what}.mat"
        scipy.io.savemat(path, content)
        files[what] = (path.name, hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", files)
    train, test = opened("flowers102", tmp_path)
    assert [train.describe(index)[-9:] for index in range(4)] == ["00001.jpg", "00006.jpg", "00002.jpg", "00004.jpg"]
    assert [train.label(index) for index in range(4)] == [2, 2, 0, 1]
    assert [(test.describe(index)[-9:], test.label(index)) for index in range(2)] == [
        ("00005.jpg", 0),
        ("00003.jpg", 1),
    ]
    assert (len(train.classes), train.classes[0]) == (102, "pink primrose")
    assert np.asarray(train.image(1))[0, 0].tolist() == [6, 0, 7]


def test_cars_from_its_matlab_annotations(tmp_path: Path) -> None:
    folder = tmp_path / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    for split, path in (
        ("train", folder / "devkit/cars_train_annos.mat"),
        ("test", folder / "cars_test_annos_withlabels.mat"),
    ):
        names = [f"{number:05d}.jpg" for number in (1, 2, 3)]
        rows = np.array([(name, label) for name, label in zip(names, (2, 1, 2), strict=True)],
                        dtype=[("fname", object), ("class", np.uint8)])  # fmt: skip
        scipy.io.savemat(path, {"annotations": rows})
        for number, name in enumerate(names):
            picture(folder / f"cars_{split}/{name}", number + (100 if split == "test" else 0))
    scipy.io.savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array(["AM General", "Acura RL"], object)})
    train, test = opened("cars", tmp_path)
    assert train.classes == test.classes == ("AM General", "Acura RL")
    assert [train.label(index) for index in range(3)] == [1, 0, 1]
    assert np.asarray(test.image(2))[0, 0].tolist() == [102, 0, 7]
    assert test.describe(2) == str(folder / "cars_test/00003.jpg")


@pytest.mark.parametrize("kind", sorted(SETS))
def test_what_is_not_there_is_one_sentence(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"torchvision.*{kind}.*{tmp_path}"):
        opened(kind, tmp_path)
    with pytest.raises(UserError, match="/nowhere"):
        opened(kind, Path("/nowhere"))


def test_wrong_sources() -> None:
    with pytest.raises(UserError, match=r"source.*cifar10.*cifar10:/"):
        load_config(DataConfig, None, ["source=cifar10"])
    with pytest.raises(UserError, match=r"source.*'cifar11:/data'.*cifar10, cifar100, cifar100-20, flowers102"):
        load_config(DataConfig, None, ["source=cifar11:/data"])


def test_too_few_images_to_divide(tmp_path: Path) -> None:
    make_caltech101(tmp_path)
    for path in (tmp_path / "caltech101/101_ObjectCategories/wrench").iterdir():
        if path.name > "image_0030.jpg":
            path.unlink()
    with pytest.raises(UserError, match=r"wrench.*caltech101:train.*\b30\b"):
        opened("caltech101", tmp_path)
