"""Zip archives of tensors and arrays, checked before a reader unpacks them."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path


def is_zip(path: Path) -> bool:
    """True if the file begins like those of `torch.save` and `numpy.savez`."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def find_fault(path: Path) -> str:
    """Fault of an archive that `torch.save` or `numpy.savez` should have written; empty if it has none.

    Both store their entries uncompressed, one after the other. So a compressed entry, and entries that together are
    larger than the file, were made to exhaust memory. Each entry has a checksum (CRC-32) that neither reader verifies;
    here every byte is. Writers configured to omit checksums
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
                return f"checksum mismatch in {damaged}; download or save the file again"
    except (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError,
            NotImplementedError, OverflowError) as error:  # fmt: skip
        return (str(error).splitlines() or [type(error).__name__])[0][:200]
    return ""
