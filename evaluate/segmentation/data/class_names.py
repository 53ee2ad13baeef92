"""Class names: the data's own, the built-in scenes' and MMSegmentation's."""

from __future__ import annotations

from pathlib import Path

from core.data.scenes.render import CLASSES as SHAPES
from core.errors import UserError
from evaluate.segmentation.protocol import SegmentDataConfig

CLASS_LIST = "objectInfo150.txt"
"""File of ADE20K with its class names."""


def check_class_list(root: Path, config: SegmentDataConfig) -> None:
    """Raises `UserError` if ADE20K's own class list and the protocol differ in the number of classes."""
    names = class_list(root) if config.layout in ("ade20k", "scenes") else None
    if names is not None and len(names) != config.classes:
        raise UserError(
            f"{root / CLASS_LIST} lists {len(names)} classes, the protocol has {config.classes}; pass the data of the "
            f"protocol, or data.classes={len(names)}"
        )


def class_names(root: Path, config: SegmentDataConfig) -> tuple[str, ...]:
    """Names in label order; MMSegmentation's if the data has none. Needs MMSegmentation (`import_mmseg`)."""
    if config.layout == "scenes":
        return ("background", *SHAPES)
    if config.layout == "ade20k":
        from mmseg.datasets import ADE20KDataset

        known = ADE20KDataset.METAINFO["classes"]
        if config.classes == len(known):
            return tuple(known)
        return tuple(class_list(root) or [f"class {number}" for number in range(config.classes)])
    from mmseg.datasets import CityscapesDataset, PascalVOCDataset

    return tuple((PascalVOCDataset if config.layout == "voc12aug" else CityscapesDataset).METAINFO["classes"])


def class_list(root: Path) -> list[str] | None:
    """Names in ADE20K's own list; None without it."""
    file = root / CLASS_LIST
    if not file.is_file():
        return None
    rows = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[1:]
    return [row.split("\t")[-1].strip() for row in rows]
