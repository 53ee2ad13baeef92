"""Local parquet files with a column of images, as the Hugging Face hub stores them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from core.data.base import ImageSet
from core.data.digests import files_digest
from core.data.readers.file_patterns import find_files, pattern_of_split
from core.data.readers.remote_files import is_url
from core.data.readers.splits import Split
from core.data.readers.tables import Table, import_datasets, reason_of, split_options
from core.data.subset import noted
from core.errors import UserError, first_line
from core.files.cache_folder import cache_folder
from core.files.user_path import user_path

OPTIONS = ("image", "label")
_EXAMPLE = "parquet:/data/in1k/{split}-*.parquet"


def open_parquet(place: str, split: Split) -> ImageSet:
    """Rows of `FILES[?image=COLUMN&label=COLUMN]`, where `{split}` stands for train or val (also validation, test, …).

    A parquet file can't be read by row, so `datasets` writes the rows once more, as Arrow, below the cache folder.
    Raises `UserError` for missing, unreadable or empty files, and for missing columns.
    """
    source, options = split_options(place, OPTIONS)
    datasets = import_datasets("parquet")
    if user_path(source).is_dir():
        raise UserError(f"parquet:{source} is a folder; give files, e.g. {_EXAMPLE}, or take hf:{source}")
    if is_url(source):
        raise UserError(f"parquet:{source} is a URL; fetch the files first, or take hf:NAME for a data set of the hub")
    pattern, notes = pattern_of_split("parquet", str(user_path(source)), split)
    found, more = find_files(pattern, _EXAMPLE, may_lack=split == "val")
    files = [file for file in found if isinstance(file, Path)]
    starts = np.cumsum([0, *(_count(file) for file in files)])
    if starts[-1] == 0:
        raise UserError(f"parquet:{pattern} has no rows ({len(files)} files); give other files")
    rows = _load(datasets, pattern, files)

    def where(row: int) -> str:
        file = int(np.searchsorted(starts, row, side="right")) - 1
        return f"{files[file]}#{row - starts[file]}"

    table = Table(
        rows,
        f"parquet:{pattern}{place[len(source) :]}",
        options.get("image", ""),
        options.get("label", ""),
        labelled=split != "pretrain",
        where=where,
        inside=tuple(dict.fromkeys(file.parent for file in files)),
        state=lambda: files_digest((file.name.encode(), file) for file in files).encode(),
    )
    return noted(table, *notes, *more)


def _count(file: Path) -> int:
    """Rows of a file. Raises `UserError` for one that is not parquet."""
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.read_metadata(file).num_rows)
    except Exception as error:  # Arrow's own errors, and those of the disk
        raise UserError(f"{file} is not a readable parquet file ({first_line(error)}); write it again") from None


def _load(datasets: Any, pattern: str, files: list[Path]) -> Any:
    try:
        return datasets.load_dataset(
            "parquet", data_files={"images": [str(file) for file in files]}, split="images",
            cache_dir=str(cache_folder() / "parquet"),
        )  # fmt: skip
    except Exception as error:  # datasets lets errors of Arrow, of casts and of the disk escape
        raise UserError(f"datasets can't read parquet:{pattern} ({reason_of(error)}); check the files") from None
