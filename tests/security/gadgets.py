"""Crafted pickles that make a folder when they are read without care, and files that ask for more than there is."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Gadget:
    """Calls `call` with `arguments` when unpickled."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


def gadgets(canary: Path) -> dict[str, Any]:
    """Objects whose pickles make the folder `canary`, by the way they take."""
    code = f"__import__('os').mkdir({str(canary)!r})"
    return {
        "os.mkdir": Gadget(os.mkdir, str(canary)),
        "eval": Gadget(eval, code),
        "exec": Gadget(exec, code),
        # `getattr` is among the names that logs of other projects refer to.
        "getattr": Gadget(getattr, Gadget(__import__, "os"), "mkdir"),
        "os.system": Gadget(os.system, f"mkdir {canary}"),
    }


def pickled_call(module: str, name: str, argument: str) -> bytes:
    """A pickle of protocol 0 that calls module.name(argument), for names that can't be pickled here."""
    return f"c{module}\n{name}\n(V{argument}\ntR.".encode()


def torch_zip(path: Path, program: bytes, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """A file as `torch.save` writes it, with any pickle and any entries."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", b"little")
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
        archive.writestr("archive/version", b"3\n")


def repacked(source: Path, target: Path, compression: int) -> None:
    """The same archive with its entries packed otherwise."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))


def zeros_zip(path: Path, name: str, size: int) -> None:
    """A compressed archive of one entry of `size` zeros."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as entry,
    ):
        block = bytes(2**20)
        for _ in range(size // len(block)):
            entry.write(block)


def packed_zeros(mebibytes: int) -> bytes:
    """So many MiB of zeros for zlib, made of one that is packed once and repeated."""
    zeros, checksum = bytes(2**20), 1
    packer = zlib.compressobj(1)
    head = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
    for _ in range(mebibytes):
        checksum = zlib.adler32(zeros, checksum)
    return head + again * (mebibytes - 1) + b"\x03\x00" + checksum.to_bytes(4, "big")


def doubled(levels: int) -> list[Any]:
    """A list that holds the list below it twice, `levels` times: 2^levels entries in a few hundred bytes."""
    value: list[Any] = [1]
    for _ in range(levels):
        value = [value, value]
    return value


def shared_entries(path: Path, copies: int) -> None:
    """An archive whose directory names one entry of a megabyte `copies` times."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", os.urandom(2**20))
        first = archive.filelist[0]
        for number in range(1, copies):
            entry = zipfile.ZipInfo(f"archive/data/{number}")
            for key in ("file_size", "compress_size", "CRC", "header_offset", "compress_type"):
                setattr(entry, key, getattr(first, key))
            archive.filelist.append(entry)


def png(width: int, height: int, extra: bytes = b"") -> bytes:
    """A PNG of one black row under a header that says otherwise, with chunks `extra` in front of the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(bytes(3 * 64 + 1))) + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """A tar file of members given by their headers."""
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def safetensors(path: Path, header: Any, content: bytes = b"", length: int | None = None) -> None:
    """A safetensors file with any header, which may say another length than it has."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + content)


def exported_with(path: Path, architecture: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """A file as `export_backbone` writes it, with sound digests, that names another architecture than it holds."""
    from safetensors.torch import save_file

    from core.checkpoints import tensors_digest

    header = {
        "format": "ssl-transfer/backbone/1",
        "backbone": json.dumps(architecture),
        "sha256": tensors_digest(tensors),
    }
    save_file(tensors, path, metadata=header)


def object_array(canary: Path) -> np.ndarray:
    """An array whose `.npy` file runs code where pickles in it are allowed."""
    array = np.empty(1, object)
    array[0] = Gadget(os.mkdir, str(canary))
    return array


def dumps(value: Any) -> bytes:
    """The pickle of `value`, protocol 2 as `torch.save` has it."""
    return pickle.dumps(value, protocol=2)
