"""The labelled part of a training set: a published list of files, or a seeded share of every class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.data.base import ImageSet
from core.data.subset import Subset, few_shot
from core.errors import UserError
from core.files.user_path import user_path


def labelled_part(images: ImageSet, share: float | None, file_list: str | None, seed: int) -> ImageSet:
    """All images; those in `file_list`; or `share` of them, equally many of each class. Its name says which.

    `file_list`: a text file of image names, one per line, as SimCLR's 1 % and 10 % lists; folders before the name don't
    matter. Raises `UserError` for a list that can't be read or names images that aren't there, and for a share that
    leaves a class without images or asks for more than the smallest class has.
    """
    if file_list is not None:
        return _listed(images, user_path(file_list))
    if share is None:
        return images
    per_class = round(share * len(images) / len(images.classes))
    if per_class < 1:
        raise UserError(
            f"a share of {share:g} of {images.name} is less than one image for each of its {len(images.classes)} "
            f"classes; raise share"
        )
    return few_shot(images, per_class, seed)


def _listed(images: ImageSet, file: Path) -> Subset:
    try:
        names = [line.strip().rpartition("/")[2] for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read file_list {file}: {error}") from None
    wanted = {name for name in names if name}
    if not wanted:
        raise UserError(f"file_list {file} names no images; put one file name on each line")
    found = {images.describe(index).replace("::", "/").rpartition("/")[2]: index for index in range(len(images))}
    absent = sorted(wanted - set(found))
    if absent:
        raise UserError(
            f"{len(absent)} of the {len(wanted)} images in file_list {file} are not in {images.name}, e.g. {absent[0]}"
        )
    return Subset(images, np.array(sorted(found[name] for name in wanted)), f"{len(wanted)} listed in {file.name}")
