"""Zip archives of tensors and arrays, looked at before a reader unpacks them."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path


def is_zip(path: Path) -> bool:
    """Whether the file begins as `torch.save` and `numpy.savez` begin theirs."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def find_fault(path: Path) -> str:
    """What is wrong with an archive that `torch.save` or `numpy.savez` should have written; empty where nothing is.

    Both store their entries as they are, one behind the other. So a compressed entry, and entries that are larger than
    the file together, are the work of somebody who wants much memory used. Each entry has a checksum (CRC-32), which
    neither reader looks at; here every byte is compared with it. Writers that were told to leave the checksums out
    (`torch.serialization.set_crc32_options`) write zeros for all of them, which pass.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                return "its entries are compressed, save it again with torch.save"
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                return "its entries claim to be larger than the file"
            if any(entry.CRC for entry in entries) and (damaged := archive.testzip()):
                return f"{damaged} does not give its checksum, fetch or write it again"
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError,
            NotImplementedError, OverflowError) as error:  # fmt: skip
        return (str(error).splitlines() or [type(error).__name__])[0][:200]
    return ""
