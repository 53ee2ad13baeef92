"""Data sets of the Hugging Face hub, its cache, or a local folder that `datasets` can load."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from core.data.base import ImageSet
from core.data.readers.splits import Split, split_names, split_notes
from core.data.readers.tables import Table, import_datasets, reason_of, split_options
from core.data.subset import noted
from core.errors import UserError
from core.files.user_path import user_path

OPTIONS = ("image", "label", "train", "val", "revision")


def open_hf(place: str, split: Split) -> ImageSet:
    """One split of `NAME[:CONFIG][?image=COLUMN&label=COLUMN&train=SPLIT&val=SPLIT&revision=REVISION]`.

    NAME: as on the hub, or a local folder. `HF_HUB_OFFLINE=1` takes what its cache holds and asks nobody. Raises
    `UserError` for what can't be loaded, and for a missing split or column.
    """
    source, options = split_options(place, OPTIONS)
    datasets = import_datasets("hf")
    name, config = _name_and_config(source)
    folder = user_path(name)
    parts = _load(datasets, source, name, config, options.get("revision"))
    chosen, notes = _split(list(parts), split, options, source)
    rows = parts[chosen]

    def state() -> bytes:
        files = [Path(each["filename"]) for each in rows.cache_files]
        # The folder of a prepared file is named by the state of the data that it was made from.
        return "\n".join(f"{'/'.join(file.parts[-3:])} {file.stat().st_size}" for file in files).encode()

    table = Table(
        rows,
        f"hf:{place}[{chosen}]",
        options.get("image", ""),
        options.get("label", ""),
        labelled=split != "pretrain",
        where=lambda row: f"hf:{source}[{chosen}]#{row}",
        inside=(folder,) if folder.is_dir() else _caches(datasets),
        state=state,
    )
    return noted(table, *notes)


def _name_and_config(source: str) -> tuple[str, str | None]:
    """`NAME` and `CONFIG` of `NAME:CONFIG`; a folder of exactly that name is taken literally."""
    name, colon, config = source.rpartition(":")
    return (name, config) if colon and name and not user_path(source).is_dir() else (source, None)


def _load(datasets: Any, source: str, name: str, config: str | None, revision: str | None) -> dict[str, Any]:
    """Splits by name. Raises `UserError` with the reason that `datasets` states."""
    folder = user_path(name)
    saved = folder / "dataset_dict.json", folder / "state.json"
    try:
        if any(file.is_file() for file in saved):
            loaded = datasets.load_from_disk(str(folder))
            return dict(loaded) if saved[0].is_file() else {"train": loaded}
        return dict(datasets.load_dataset(str(folder) if folder.is_dir() else name, config, revision=revision))
    except Exception as error:  # datasets lets errors of its many readers and of the network escape
        offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
        way_out = (
            "check the folder" if folder.is_dir()
            else "load it once without HF_HUB_OFFLINE, or give a local folder" if offline
            else "check its name on the hub, NAME[:CONFIG], or give a local folder"
        )  # fmt: skip
        raise UserError(f"datasets can't load hf:{source} ({reason_of(error)}); {way_out}") from None


def _split(
    existing: list[str], split: Split, options: dict[str, str], source: str
) -> tuple[str, tuple[str, ...]]:  # fmt: skip
    """Name of the split to use, and notes on the choice."""
    option = "val" if split == "val" else "train"
    if wanted := options.get(option, ""):
        if wanted not in existing:
            raise UserError(f"hf:{source} has no split {wanted!r}; its splits are {', '.join(existing)}")
        return wanted, ()
    names = split_names(split)
    if chosen := next((name for name in names if name in existing), None):
        return chosen, split_notes(split, chosen, f"hf:{source}")
    if split == "pretrain" and len(existing) == 1:
        return existing[0], (f"hf:{source}: {existing[0]} taken as train, the only split",)
    raise UserError(
        f"hf:{source} has no split {names[0]}; its splits are {', '.join(existing)}: name one with ?{option}=SPLIT"
    )


def _caches(datasets: Any) -> tuple[Path, ...]:
    from huggingface_hub import constants

    return tuple(map(Path, (datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE)))
