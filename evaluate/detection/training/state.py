"""State of a detector's training on disk: written atomically, read without unpickling, tied to one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from core.checkpoints import read_tensors
from core.errors import UserError
from core.files.atomic_file import write_atomically

FORMAT = "ssl-transfer/detector-state/1"
FILE = "detector.pt"


def save(folder: Path, identity: dict[str, Any], content: dict[str, Any]) -> None:
    """Replaces `folder`/detector.pt. `identity` names the run; `content` holds tensors and plain values."""
    document = {"format": FORMAT, "identity": identity, **content}
    write_atomically(folder / FILE, lambda partial: torch.save(document, partial))


def load(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """State of the run of this identity in `folder`; None if there is no state.

    Raises `UserError` for a damaged file and for the state of another run.
    """
    path = folder / FILE
    if not path.exists():
        return None
    document = read_tensors(path)
    if (
        not isinstance(document, dict)
        or document.get("format") != FORMAT
        or not isinstance(document.get("identity"), dict)
    ):
        raise UserError(f"{path} is not the state of a detector's training; choose another folder with --out")
    theirs = {"protocol_version": 1} | document["identity"]  # states from before versions existed
    different = [key for key in identity if theirs.get(key) != identity[key]]
    if different:
        raise UserError(
            f"{path} belongs to another run (different: {', '.join(different)}); choose another folder with --out, or "
            f"start over with --restart"
        )
    return document
