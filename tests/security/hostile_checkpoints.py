"""Hostile checkpoints: code, memory and time; each case makes its file and opens it."""

from __future__ import annotations

import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converters.open import open_backbone
from core.backbones import BackboneConfig, build_backbone
from core.checkpoints import load_training_state
from core.distributed import Processes
from evaluate.common.resumable import ProbeState
from tests.security.gadgets import (
    doubled,
    dumps,
    exported_with,
    gadgets,
    object_array,
    pickled_call,
    repacked,
    safetensors,
    shared_entries,
    tar_of,
    torch_zip,
)

ALONE = Processes(0, 1, torch.device("cpu"))
WAYS = ("os.mkdir", "eval", "exec", "getattr", "os.system")
Opener = Callable[[], object]
Case = Callable[[Path, Path], Opener]
"""(folder to make the files in, canary that must not appear) -> what opens them."""


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


CHECKPOINTS: dict[str, tuple[str, str, Case]] = {
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
}  # fmt: skip
