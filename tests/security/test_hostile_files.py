"""Files from strangers: nothing in them runs, nothing is written, memory stays bounded, one sentence says why."""

from __future__ import annotations

import gzip
import io
import json
import mmap
import os
import pickle
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from converters.detectron2_file import read_detectron2
from converters.open import open_backbone
from core.backbones import BackboneConfig, build_backbone
from core.checkpoints import load_training_state, read_tensors
from core.config import load_config
from core.data.decode import decode_rgb
from core.data.readers.fashion_mnist import FashionMNIST
from core.data.readers.shards import Shards
from core.data.readers.torchvision_sets import SETS, TorchvisionSet, download
from core.distributed import Processes
from core.errors import UserError
from core.untrusted.matlab_files import check_unpacked_size
from evaluate.common.resumable import ProbeState
from evaluate.detection.data.coco_data import open_coco
from evaluate.detection.data.voc_data import open_voc
from evaluate.probes.knn.protocol import KnnConfig
from tests.security.gadgets import (
    Gadget,
    chunk,
    doubled,
    dumps,
    exported_with,
    gadgets,
    object_array,
    pickled_call,
    png,
    repacked,
    safetensors,
    shared_entries,
    tar_of,
    torch_zip,
    zeros_zip,
)
from tests.security.watched import files_below, watch

ALONE = Processes(0, 1, torch.device("cpu"))
WAYS = ("os.mkdir", "eval", "exec", "getattr", "os.system")
Opener = Callable[[], object]
Case = Callable[[Path, Path], Opener]
"""(folder to make the files in, canary that must not appear) -> what opens them."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))


def _opened(file: Path) -> Opener:
    return lambda: open_backbone(str(file))


# --- code in checkpoints -------------------------------------------------------------------------------------------


def _in_pth(way: str) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        torch.save({"state_dict": {"w": torch.ones(2)}, "meta": gadgets(canary)[way]}, folder / "a.pth")
        return _opened(folder / "a.pth")

    return case


def _in_legacy_pth(folder: Path, canary: Path) -> Opener:
    content = {"w": torch.ones(2), "x": gadgets(canary)["eval"]}
    torch.save(content, folder / "a.pth", _use_new_zipfile_serialization=False)
    return _opened(folder / "a.pth")


def _bare_pickle_as_pth(folder: Path, canary: Path) -> Opener:
    (folder / "a.pth").write_bytes(pickled_call("os", "mkdir", str(canary)))
    return _opened(folder / "a.pth")


def _in_pkl(way: str) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        document = {"model": {"stem.conv1.weight": np.ones(2)}, "__author__": gadgets(canary)[way]}
        (folder / "a.pkl").write_bytes(pickle.dumps(document))
        return _opened(folder / "a.pkl")

    return case


def _object_array_in_pkl(folder: Path, canary: Path) -> Opener:
    (folder / "a.pkl").write_bytes(pickle.dumps({"model": {"w": object_array(canary)}}))
    return _opened(folder / "a.pkl")


def _torchscript(folder: Path, canary: Path) -> Opener:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), str(folder / "a.pth"))
    return _opened(folder / "a.pth")


def _tar_checkpoint(folder: Path, canary: Path) -> Opener:
    link = tarfile.TarInfo("storages")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    program = pickled_call("os", "mkdir", str(canary))
    tar_of(folder / "a.pth", (link, b""), (tarfile.TarInfo("tensors"), b""), (tarfile.TarInfo("pickle"), program))
    return _opened(folder / "a.pth")


def _training_state(folder: Path, canary: Path) -> Opener:
    state = {"format": "ssl-transfer/training-state/1", "step": 1, "rng": gadgets(canary)["os.mkdir"]}
    torch.save(state, folder / "step_000000001.pt")
    return lambda: load_training_state(folder / "step_000000001.pt")


def _unfinished_probe(folder: Path, canary: Path) -> Opener:
    torch.save({"identity": "me", "seconds": 1.0, "rows": gadgets(canary)["eval"]}, folder / "unfinished.pt")
    return lambda: ProbeState(folder / "unfinished.pt", "me", ALONE).load()


def _detector_state(folder: Path, canary: Path) -> Opener:
    from evaluate.detection.training import state

    torch.save({"format": state.FORMAT, "identity": {}, "x": gadgets(canary)["eval"]}, folder / state.FILE)
    return lambda: state.load(folder, {})


def _weights_elsewhere(folder: Path, canary: Path) -> Opener:
    """timm would load the named file into the model, whatever the weights at hand are."""
    torch.save(gadgets(canary)["eval"], folder / "other.pth")
    model = build_backbone(BackboneConfig("resnet18", {"channels": [8, 8, 8, 8]}))
    args = {"channels": [8, 8, 8, 8], "checkpoint_path": str(folder / "other.pth")}
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    exported_with(folder / "a.safetensors", {"name": "resnet18", "args": args}, tensors)
    return _opened(folder / "a.safetensors")


# --- memory and time in checkpoints --------------------------------------------------------------------------------


def _packed_pth(folder: Path, canary: Path) -> Opener:
    torch.save({"w": torch.zeros(2**24)}, folder / "whole.pth")
    repacked(folder / "whole.pth", folder / "a.pth", zipfile.ZIP_DEFLATED)
    return _opened(folder / "a.pth")


def _shared_entries(folder: Path, canary: Path) -> Opener:
    shared_entries(folder / "a.pth", 4000)
    return _opened(folder / "a.pth")


def _lists_of_lists(suffix: str) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        if suffix == ".pkl":
            (folder / "a.pkl").write_bytes(pickle.dumps({"model": doubled(40)}))
        else:
            torch_zip(folder / "a.pth", dumps({"model": doubled(40)}), {})
        return _opened(folder / f"a{suffix}")

    return case


def _within_itself(folder: Path, canary: Path) -> Opener:
    document: dict[str, Any] = {"w": 1}
    document["state_dict"] = document
    torch.save(document, folder / "a.pth")
    return _opened(folder / "a.pth")


def _memo_of_gigabytes(folder: Path, canary: Path) -> Opener:
    (folder / "a.pkl").write_bytes(b"\x80\x02}r" + struct.pack("<I", 2**30) + b".")
    return _opened(folder / "a.pkl")


def _repeated_numbers(folder: Path, canary: Path) -> Opener:
    state = build_backbone(BackboneConfig("resnet18")).state_dict()
    torch.save({name: torch.ones(()).expand(tensor.shape) for name, tensor in state.items()}, folder / "a.pth")
    return _opened(folder / "a.pth")


def _architecture(args: dict[str, Any], name: str = "vit_small_patch16_224") -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        exported_with(folder / "a.safetensors", {"name": name, "args": args}, {"w": torch.ones(2)})
        return _opened(folder / "a.safetensors")

    return case


def _names(*names: str) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        torch.save({name: torch.ones(64, 3, 7, 7) for name in names}, folder / "a.pth")
        return _opened(folder / "a.pth")

    return case


def _safetensors_header(header: Any, content: bytes = b"", length: int | None = None) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        safetensors(folder / "a.safetensors", header, content, length)
        return _opened(folder / "a.safetensors")

    return case


def _pipe(folder: Path, canary: Path) -> Opener:
    os.mkfifo(folder / "a.pth")
    return _opened(folder / "a.pth")


# --- images --------------------------------------------------------------------------------------------------------


def _image(content: bytes) -> Case:
    return lambda folder, canary: lambda: decode_rgb(content, "stranger")


def _eps(folder: Path, canary: Path) -> Opener:
    """Pillow starts Ghostscript for it; here something else stands in for the program."""
    tool = folder / "bin"
    tool.mkdir()
    (tool / "gs").write_text(f"#!/bin/sh\nmkdir {canary}\n")
    (tool / "gs").chmod(0o755)
    (folder / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")

    def decode() -> None:
        os.environ["PATH"] = f"{tool}:{os.environ['PATH']}"
        decode_rgb(folder / "a.jpg", "stranger")

    return decode


def _eps_by_an_engine(folder: Path, canary: Path) -> Opener:
    decode = _eps(folder, canary)

    def opened_without_us() -> None:
        from core.errors import BrokenImage

        with pytest.raises(BrokenImage):
            decode()
        try:
            with PIL.Image.open(folder / "a.jpg") as image:
                image.load()
        except OSError as error:
            raise BrokenImage("engine", str(error)) from None

    return opened_without_us


def _image_pipe(folder: Path, canary: Path) -> Opener:
    os.mkfifo(folder / "a.jpg")
    return lambda: decode_rgb(folder / "a.jpg", "stranger")


def _jpeg_of(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(content)


# --- data sets -----------------------------------------------------------------------------------------------------


def _packed_fashion_mnist(folder: Path, canary: Path) -> Opener:
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb", compresslevel=1) as file:
        file.write(struct.pack(">BBBB3I", 0, 0, 8, 3, 60000, 28, 28))
        for _ in range(400):
            file.write(bytes(2**20))
    return lambda: FashionMNIST("train", folder)


def _shard(*members: tuple[str, bytes], **header: Any) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        infos = [(tarfile.TarInfo(name), content) for name, content in members]
        for key, value in header.items():
            setattr(infos[0][0], key, value)
        tar_of(folder / "a.tar", *infos)
        return lambda: Shards(str(folder / "a.tar"), "stranger")

    return case


def _size_below_zero(folder: Path, canary: Path) -> Opener:
    tar_of(folder / "a.tar", (tarfile.TarInfo("a.png"), png(8, 8)))
    content = bytearray((folder / "a.tar").read_bytes())
    content[124:136] = b"\xff" * 10 + b"\xfe\x00"  # −512, as GNU writes numbers that octal can't hold
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (folder / "a.tar").write_bytes(content)
    return lambda: Shards(str(folder / "a.tar"), "stranger")


def _cifar(kind: str, files: dict[str, str]) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        from torchvision import datasets

        known = getattr(datasets, SETS[kind].loader)
        place = folder / known.base_folder
        place.mkdir(parents=True)
        for name, _ in (*known.train_list, *known.test_list, (known.meta["filename"], "")):
            (place / name).write_bytes(pickled_call("os", "mkdir", str(canary)))
        return lambda: TorchvisionSet(kind, folder, "train")

    return case


def _packed_matlab(folder: Path, canary: Path) -> Opener:
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(400)) + packer.flush()
    element = struct.pack("<II", 15, len(packed)) + packed
    devkit = folder / "stanford_cars" / "devkit"
    devkit.mkdir(parents=True)
    (devkit / "cars_train_annos.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + element)
    return lambda: TorchvisionSet("cars", folder, "train")


def _list_leads_outside(folder: Path, canary: Path) -> Opener:
    meta = folder / "food-101" / "meta"
    meta.mkdir(parents=True)
    (folder / "food-101" / "images").mkdir()
    (meta / "train.json").write_text(json.dumps({"pizza": ["../../../../etc/shadow"]}))
    return lambda: TorchvisionSet("food101", folder, "train")


def _coco(text: str) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        (folder / "annotations").mkdir()
        (folder / "val2017").mkdir()
        (folder / "val2017" / "a.jpg").write_bytes(b"x")
        (folder / "annotations" / "instances_val2017.json").write_text(text)
        return lambda: open_coco(folder, "val", True, "polygon", 0.0)

    return case


def _coco_with(image: dict[str, Any] | None = None, **annotation: Any) -> Case:
    images = [{"id": 1, "file_name": "a.jpg", "height": 9, "width": 9} | (image or {})]
    one = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [1, 1, 4, 4], "area": 16}
    one |= {"segmentation": [[1, 1, 4, 1, 4, 4]]} | annotation
    categories = [{"id": 1, "name": "cat"}]
    return _coco(json.dumps({"images": images, "annotations": [one], "categories": categories}))


def _voc(text: str) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        for name in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (folder / "VOC2007" / name).mkdir(parents=True)
        (folder / "VOC2007/ImageSets/Main/test.txt").write_text("a\n")
        (folder / "VOC2007/JPEGImages/a.jpg").write_bytes(b"x")
        (folder / "VOC2007/Annotations/a.xml").write_text(text)
        return lambda: open_voc(folder, "val", 0.0)

    return case


_LAUGHS = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(10))


# --- configs -------------------------------------------------------------------------------------------------------


def _yaml(text: str) -> Case:
    def case(folder: Path, canary: Path) -> Opener:
        (folder / "a.yaml").write_text(text.replace("CANARY", str(canary)))
        return lambda: load_config(KnnConfig, folder / "a.yaml")

    return case


def _override(text: str) -> Case:
    return lambda folder, canary: lambda: load_config(KnnConfig, None, [text.replace("CANARY", str(canary))])


_ANCHORS = "a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(12))
_MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n + 1}: &a{n + 1}\n  <<: [*a{n}, *a{n}, *a{n}]\n" for n in range(30))

CASES: dict[str, tuple[str, str, Case]] = {
    **{f"code in .pth by {way}": ("UserError", "execut", _in_pth(way)) for way in WAYS if way != "getattr"},
    "code in .pth by getattr": ("UserError", "execut|ResNet", _in_pth("getattr")),
    "code in a .pth of the old format": ("UserError", "execut", _in_legacy_pth),
    "a bare pickle as .pth": ("UserError", "checkpoint|execut", _bare_pickle_as_pth),
    **{f"code in .pkl by {way}": ("UserError", "execut", _in_pkl(way)) for way in WAYS},
    "an array of objects in .pkl": ("UserError", "execut", _object_array_in_pkl),
    "a TorchScript program as .pth": ("UserError", "checkpoint", _torchscript),
    "a checkpoint as tar": ("UserError", "checkpoint", _tar_checkpoint),
    "code in a training state": ("UserError", "execut", _training_state),
    "code in an unfinished probe": ("UserError", "execut", _unfinished_probe),
    "code in a detector's state": ("UserError", "execut", _detector_state),
    "an export that names other weights": ("UserError", "checkpoint_path", _weights_elsewhere),
    "a packed .pth": ("UserError", "compressed", _packed_pth),
    "a .pth with shared entries": ("UserError", "larger than the file|[Oo]verlap", _shared_entries),
    "lists of lists in .pkl": ("UserError", "1,000,000", _lists_of_lists(".pkl")),
    "lists of lists in .pth": ("UserError", "1,000,000", _lists_of_lists(".pth")),
    "a dictionary within itself": ("UserError", r"\b64\b", _within_itself),
    "a pickle that memorises a gigabyte": ("UserError", "ResNet", _memo_of_gigabytes),
    "weights that repeat one number": ("UserError", "share|repeat", _repeated_numbers),
    "a million blocks": ("UserError", "1000000000", _architecture({"depth": 10**9})),
    "a hundred thousand layers": (
        "UserError", "blocks.*resnet50", _architecture({"layers": [10**5] * 4}, "resnet50")),
    "a ViT of terabytes": ("UserError", "does not cover", _architecture({"embed_dim": 65536, "num_heads": 1})),
    "an image of 10^9 pixels a side": ("UserError", "don't fit|does not cover", _architecture({"img_size": 10**9})),
    "a stage of number 10^8": ("UserError", "", _names("conv1.weight", "layer1.0.conv1.weight", "layer99999999.0.x")),
    "a block of 5000 digits": (
        "UserError", "", _names("conv1.weight", "layer1.0.conv1.weight", f"layer{'9' * 900}.0.x")),
    "a name of 2000 characters": ("UserError", "2,000", _names("x" * 2000)),
    "a safetensors header of 2^62 bytes": ("UserError", "safetensors", _safetensors_header(b"{}", length=2**62)),
    "a safetensors tensor beyond its file": ("UserError", "checkpoint|safetensors", _safetensors_header(
        {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})),
    "safetensors tensors over each other": ("UserError", "checkpoint|safetensors", _safetensors_header(
        {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, bytes(8))),
    "a safetensors shape that overflows": ("UserError", "checkpoint|safetensors", _safetensors_header(
        {"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, bytes(8))),
    "a safetensors header of nested lists": (
        "UserError", "checkpoint|safetensors", _safetensors_header(b'{"a":' + b"[" * 10**5)),
    "a pipe for a checkpoint": ("UserError", "regular file", _pipe),
    "a PNG of 10^9 pixels": ("BrokenImage", "pixels", _image(png(40000, 25000))),
    "a JPEG of 4·10^9 pixels": ("BrokenImage", "pixels", _image(_jpeg_of(65500, 65500))),
    "a PNG with a text of a gigabyte": ("BrokenImage", "", _image(
        png(64, 64, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**28), 9))))),
    "PostScript named .jpg": ("BrokenImage", "cannot identify", _eps),
    "PostScript given to an engine": ("BrokenImage", "Ghostscript", _eps_by_an_engine),
    "a pipe for an image": ("BrokenImage", "regular file", _image_pipe),
    "a packed Fashion-MNIST": ("UserError", r"\.gz", _packed_fashion_mnist),
    "shard members with names that lead out": ("opened", "", _shard(
        ("../../escaped.png", png(8, 8)), ("/tmp/escaped-absolute.png", png(8, 8)))),
    "a symlink in a shard": ("UserError", "no images", _shard(
        ("a.png", b""), type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "a hard link in a shard": ("UserError", "no images", _shard(
        ("a.png", b""), type=tarfile.LNKTYPE, linkname="/etc/passwd")),
    "a device in a shard": ("UserError", "no images", _shard(("a.png", b""), type=tarfile.CHRTYPE)),
    "a shard's name of a megabyte": ("UserError", "characters", _shard((f"{'x' * 2**20}.png", b"x"))),
    "a shard member of −512 bytes": ("UserError", "size", _size_below_zero),
    "pickles as CIFAR-10": ("UserError", "not found or corrupted", _cifar("cifar10", {})),
    "pickles as CIFAR-100": ("UserError", "not found or corrupted", _cifar("cifar100", {})),
    "a packed MATLAB list": ("UserError", "unpack", _packed_matlab),
    "a list of images outside": ("UserError", "outside", _list_leads_outside),
    "COCO: nesting": ("UserError", "JSON", _coco("[" * 10**6)),
    "COCO: numbers of a million digits": ("UserError", "JSON", _coco("[" + "9" * 10**6 + "]")),
    "COCO: an image of 10^18 pixels": ("UserError", "height", _coco_with({"height": 10**18})),
    "COCO: a box of 1e999": ("UserError", "finite", _coco_with(bbox=[1, 1, float("inf"), 4])),
    "COCO: run lengths beyond the mask": ("UserError", "cover", _coco_with(
        iscrowd=1, segmentation={"size": [9, 9], "counts": [2**40]})),
    "COCO: an image outside": ("UserError", "outside", _coco_with({"file_name": "../../etc/shadow"})),
    "VOC: a billion laughs": ("UserError", "annotation", _voc(
        f'<!DOCTYPE a [<!ENTITY e0 "ha">{_LAUGHS}]><annotation>&e10;</annotation>')),
    "VOC: a file from outside": ("UserError", "annotation", _voc(
        '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>')),
    "VOC: an annotation of megabytes": ("UserError", "annotation", _voc("<a>" + "x" * 2**21 + "</a>")),
    "YAML: a Python call": ("UserError", "YAML", _yaml("ks: !!python/object/apply:os.mkdir [CANARY]")),
    "YAML: a Python object": ("UserError", "YAML", _yaml("a: !!python/object/new:os.mkdir {}")),
    "YAML: anchors of anchors": ("UserError", "writes out to more", _yaml(_ANCHORS)),
    "YAML: merges of merges": ("UserError", "merge", _yaml(_MERGES)),
    "YAML: nesting": ("UserError", "YAML", _yaml("[" * 10**5)),
    "YAML: a file of megabytes": ("UserError", "longer than", _yaml("a: b\n" * 10**6)),
    "an override with a Python call": (
        "UserError", "YAML", _override("ks=!!python/object/apply:os.mkdir [CANARY]")),
    "an override with nesting": ("UserError", "YAML", _override("ks=" + "[" * 10**5)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    kind, text, case = CASES[name]
    folder, canary = tmp_path / "files", tmp_path / "canary"
    folder.mkdir()
    opener = case(folder, canary)
    before = files_below(tmp_path, tmp_path.parent)
    outcome = watch(opener)
    assert outcome.kind == kind, outcome
    assert "\n" not in outcome.text
    assert not canary.exists(), "code from the file ran"
    written = {
        path for path in files_below(tmp_path, tmp_path.parent) - before if not path.startswith(str(tmp_path / "cache"))
    }
    assert not written
    assert not Path("/tmp/escaped-absolute.png").exists()
    assert outcome.mebibytes < 400, outcome
    assert re.search(text, outcome.text), outcome.text


def test_the_harness_sees_code_that_runs_memory_and_hangs(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    assert watch(lambda: pickle.loads(dumps(Gadget(os.mkdir, str(canary))))).kind == "opened"
    assert canary.exists()
    assert watch(lambda: mmap.mmap(-1, 2**29).write(bytes(2**29))).mebibytes > 400  # not from a heap that was freed
    assert watch(lambda: {}["x"]).kind == "KeyError"
    assert watch(lambda: os.kill(os.getpid(), 9)).kind == "killed by signal 9"


def test_a_packed_index_of_shards_is_made_again(tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", (tarfile.TarInfo("a.png"), png(8, 8)))
    Shards(str(tmp_path / "a.tar"), "s")
    (kept,) = (tmp_path / "cache" / "shards").iterdir()
    sound = kept.read_bytes()
    canary = tmp_path / "canary"
    zeros_zip(tmp_path / "bomb", "offset.npy", 2**28)
    np.savez(tmp_path / "objects.npz", **dict.fromkeys(("offset", "size", "label", "key"), object_array(canary)))
    np.savez(tmp_path / "lacks.npz", offset=np.zeros(3, np.int64))
    for other in (b"", sound[:60], sound[:150] + b"\xff" + sound[151:], (tmp_path / "bomb").read_bytes(),
                  (tmp_path / "objects.npz").read_bytes(), (tmp_path / "lacks.npz").read_bytes()):  # fmt: skip
        kept.write_bytes(other)
        outcome = watch(lambda: Shards(str(tmp_path / "a.tar"), "s").describe(0))
        assert outcome.kind == "opened", outcome
        assert outcome.mebibytes < 100
        assert kept.read_bytes() == sound
    assert not canary.exists()


def test_sets_whose_archives_torchvision_does_not_check_are_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every other set's download compares a digest before it unpacks, and pickles are read after a comparison only."""
    from torchvision import datasets

    digests: list[Any] = []
    for known in SETS.values():
        module = sys.modules[getattr(datasets, known.loader).__module__]
        for function in ("download_and_extract_archive", "download_url"):
            if hasattr(module, function):
                monkeypatch.setattr(module, function, lambda *_a, md5=None, **_o: digests.append(md5))
    for kind in SETS:
        digests.clear()
        with pytest.raises(UserError):
            download(kind, tmp_path)
        assert bool(digests) == (kind not in ("aircraft", "cars")), kind
        assert all(isinstance(md5, str) and len(md5) == 32 for md5 in digests), kind


def test_a_list_of_usual_size_passes(tmp_path: Path) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "a.mat", {"x": np.arange(1000)}, do_compression=True)
    check_unpacked_size(tmp_path / "a.mat", 10000)
    with pytest.raises(UserError, match=r"a\.mat"):
        check_unpacked_size(tmp_path / "a.mat", 1000)


def test_a_detectron2_file_memorises_only_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02}r" + struct.pack("<I", 2**30) + b".")
    assert read_detectron2(tmp_path / "a.pkl") == {}


def test_methods_of_a_dictionary_can_not_be_replaced(tmp_path: Path) -> None:
    from collections import OrderedDict

    document = OrderedDict(w=1.0)
    document.itemz = "no method"  # type: ignore[attr-defined]
    torch_zip(tmp_path / "a.pth", dumps(document).replace(b"itemz", b"items"), {})
    assert read_tensors(tmp_path / "a.pth") == {"w": 1.0}
