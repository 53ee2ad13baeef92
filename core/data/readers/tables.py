"""Images in a column of a table, as Hugging Face's `datasets` keeps it: Arrow files, mapped into memory."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from core.data.account import Account
from core.data.decode import conversions_of, decode_rgb, read_image_file
from core.data.digests import CONTENT_BYTES, files_digest
from core.errors import BrokenImage, UserError, first_line
from core.project import extra

_OPTIONS = re.compile(r"(.*)\?(\w+=[^&?]*(?:&\w+=[^&?]*)*)", re.DOTALL)
_MOST_CLASSES = 10**6
_BLOCK = 256


def split_options(place: str, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Place and options of `PLACE?key=value&key=value`. Raises `UserError` for an option that is not `known`."""
    found = _OPTIONS.fullmatch(place)
    if found is None:
        return place, {}
    options = dict(part.split("=", 1) for part in found[2].split("&"))
    for key, value in options.items():
        if key not in known or not value:
            fault = f"has no option {key!r}" if key not in known else f"option {key} is empty"
            raise UserError(f"{place}: {fault}; options are {', '.join(f'{each}=…' for each in known)}")
    return found[1], options


def import_datasets(kind: str) -> Any:
    """The module `datasets`. Raises `UserError` where the extra `hf` is not installed."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"{kind}:… needs the packages datasets and pyarrow: {extra('hf')}") from None
    if not sys.stderr.isatty():  # a log would hold every state of the bars
        datasets.disable_progress_bars()
    return datasets


class Table:
    """One split of a table: images of one column, and labels of another where there is one.

    A row is found by position in files that all processes of a host map into memory, so order, division among ranks and
    resuming are those of a folder.
    """

    def __init__(
        self,
        rows: Any,
        name: str,
        image: str,
        label: str,
        labelled: bool,
        where: Callable[[int], str],
        inside: Sequence[Path] = (),
        state: Callable[[], bytes] = bytes,
    ) -> None:
        """`rows`: a `datasets.Dataset`. `image`, `label`: its columns; empty: the only ones that fit. `labelled`: False
        where labels are not needed. `where`: name of row N in messages. `inside`: folders in which images may lie that
        the table only names. `state`: identity of the files of a table that is too large to be read. Raises
        `UserError` for a table that can't be used so.
        """
        self.name, self._where, self._inside, self._state = name, where, tuple(map(os.path.abspath, inside)), state
        image, alternatives = _image_column(rows.features, image, name)
        notes = [f"{name}: images of column {image}, not of {', '.join(alternatives)}"] if alternatives else []
        label, alternatives, fault = _label_column(rows.features, label, name, image)
        self._labels = np.full(len(rows), -1, dtype=np.int64)
        self.classes: tuple[str, ...] = ()
        if len(rows) == 0:
            raise UserError(f"{name} has no rows; give another split or other files")
        if label:
            self._labels, self.classes, fault = _labels(rows, label)
        if fault and labelled:
            raise UserError(f"{name}: {fault}; name a column of class numbers or names with ?label=COLUMN")
        if fault:
            notes.append(f"{name}: labels not used ({fault})")
        elif alternatives:
            notes.append(f"{name}: labels of column {label}, not of {', '.join(alternatives)}")
        self._account = Account(notes=tuple(notes))
        self._rows = rows.select_columns([image]).with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    def image(self, index: int) -> PIL.Image.Image:
        where = self.describe(index)
        return decode_rgb(self._source(self._rows[index].column(0)[0], where), where)

    def stored_bytes(self, index: int) -> bytes | None:
        """Content of image `index`, or of the file that its row names; None without either."""
        try:
            source = self._source(self._rows[index].column(0)[0], "")
        except BrokenImage:
            return None
        return read_image_file(source) if isinstance(source, Path) else source

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        return self._where(index)

    @cache  # noqa: B019  (a data set lives as long as the process)
    def digest(self) -> str:
        """Over images, labels and class names; of more than `CONTENT_BYTES`, over sizes and the state of the files."""
        sizes = np.concatenate([_sizes(column) for column in self._columns()])
        more = self._labels.astype("<i8").tobytes() + "\n".join(self.classes).encode() + sizes.astype("<i8").tobytes()
        if (sizes < 0).any():
            values = (value for column in self._columns() for value in column)
            paths = [Path(path) for value in values if (path := _path(value))]
            return files_digest(((os.fsencode(path.name), path) for path in paths), more)
        if sizes.sum() > CONTENT_BYTES:
            return f"{hashlib.sha256(more + self._state()).hexdigest()}:stat"
        digest = hashlib.sha256(more)
        for column in self._columns():
            for value in column:
                digest.update(_bytes(value) or b"")
        return f"{digest.hexdigest()}:content"

    def account(self) -> Account:
        """Columns that were chosen among several, labels that are not used."""
        return self._account

    def conversions(self, index: int) -> tuple[str, ...]:
        where = self.describe(index)
        try:
            return conversions_of(self._source(self._rows[index].column(0)[0], where), where)
        except BrokenImage:
            return ()

    def _columns(self) -> Iterator[Any]:
        return (part.column(0) for part in self._rows.iter(_BLOCK))

    def _source(self, value: Any, where: str) -> bytes | Path:
        """Bytes of an image, or the file that the table names. Raises `BrokenImage` without either."""
        if (content := _bytes(value)) is not None:
            return content
        path = _path(value)
        if not path:
            raise BrokenImage(where, "the row holds no image")
        real = os.path.realpath(path)
        if not any(real.startswith(os.path.join(os.path.realpath(folder), "")) for folder in self._inside):
            raise BrokenImage(where, f"the row names the file {path}, which lies outside of the data set")
        return Path(path)


def _bytes(value: Any) -> bytes | None:
    """Content of an image of Arrow, a binary or a struct with `bytes`."""
    plain = value["bytes"] if hasattr(value, "keys") and value.is_valid else value
    content = plain.as_py()
    return content if isinstance(content, bytes) else None


def _path(value: Any) -> str:
    """Path that a struct of Arrow names; empty without one."""
    return (value.as_py().get("path") or "") if hasattr(value, "keys") and value.is_valid else ""


def _sizes(column: Any) -> np.ndarray:
    """Bytes of each image of a column, int64; −1 for a row without, −2 for one that names a file."""
    import pyarrow as pa
    import pyarrow.compute

    if not pa.types.is_struct(column.type):
        return np.asarray(pa.compute.binary_length(column).fill_null(-1).to_numpy(), dtype=np.int64)
    sizes = pa.compute.binary_length(pa.compute.struct_field(column, "bytes")).fill_null(-1)
    found = np.asarray(sizes.to_numpy(), dtype=np.int64).copy()
    for row in np.flatnonzero(found < 0):
        found[row] -= bool(_path(column[int(row)]))
    return found


def _image_column(features: Any, wanted: str, name: str) -> tuple[str, list[str]]:
    """The column of images, and others that could have been meant. Raises `UserError` without one."""
    columns = list(features)
    if wanted and wanted not in columns:
        raise UserError(f"{name} has no column {wanted!r}; its columns are {', '.join(columns)}")
    found = [column for column in columns if _holds_images(features[column])]
    if not found:
        raise UserError(
            f"{name}: none of its columns ({', '.join(columns)}) holds image files, as bytes or as bytes and path; "
            f"give another table"
        )
    if wanted and wanted not in found:
        raise UserError(f"{name}: column {wanted} holds no image files, {', '.join(found)} does; give that as ?image=…")
    likely = [column for column in found if type(features[column]).__name__ == "Image"] or found
    chosen = wanted or ("image" if "image" in likely else likely[0] if len(likely) == 1 else "")
    if not chosen:
        raise UserError(f"{name} has images in {', '.join(likely)}; name the column to use with ?image=COLUMN")
    return chosen, [] if wanted else [column for column in likely if column != chosen]


def _holds_images(feature: Any) -> bool:
    if isinstance(feature, dict):
        return "bytes" in feature and _holds_images(feature["bytes"])
    return type(feature).__name__ == "Image" or getattr(feature, "dtype", None) in ("binary", "large_binary")


def _label_column(features: Any, wanted: str, name: str, image: str) -> tuple[str, list[str], str]:
    """The column of labels, others that could have been meant, and what is wrong where none is chosen."""
    columns = [column for column in features if column != image]
    if wanted and wanted not in columns:
        raise UserError(f"{name} has no column {wanted!r} of labels; its columns are {', '.join(columns) or image}")
    named = [column for column in columns if type(features[column]).__name__ == "ClassLabel"]
    chosen = wanted or ("label" if "label" in columns else named[0] if len(named) == 1 else "")
    if chosen:
        return chosen, [] if wanted else [column for column in named if column != chosen], ""
    return "", [], f"the columns {', '.join(named)} all hold labels" if named else ""


def _labels(rows: Any, column: str) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Class of each row, int64; names of the classes; and what is wrong with them."""
    import pyarrow as pa

    none = np.full(len(rows), -1, dtype=np.int64)
    names = getattr(rows.features[column], "names", None)
    values = rows.select_columns([column]).with_format("arrow")[:].column(0)
    if values.null_count:
        return none, (), f"row {int(np.flatnonzero(values.is_null().to_numpy())[0])} of column {column} is empty"
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        classes, labels = np.unique(values.to_numpy().astype(str), return_inverse=True)
        return labels.astype(np.int64), tuple(map(str, classes)), ""
    if not pa.types.is_integer(values.type):
        return none, (), f"column {column} holds values of type {values.type}, not class numbers or names"
    labels = values.to_numpy().astype(np.int64)
    most = len(names) if names else _MOST_CLASSES
    if (wrong := np.flatnonzero((labels < 0) | (labels >= most))).size:
        row = int(wrong[0])
        return none, (), f"row {row} of column {column} is {labels[row]}, not a class number 0 … {most - 1}"
    return labels, tuple(names) if names else tuple(map(str, range(int(labels.max()) + 1))), ""


def reason_of(error: BaseException) -> str:
    """First line of an error of `datasets`, and of the one that it follows from where it says nothing itself."""
    cause = error.__cause__
    text = first_line(error).rstrip(".")
    return f"{text}: {first_line(cause)}" if cause is not None and "error occurred while" in text else text
