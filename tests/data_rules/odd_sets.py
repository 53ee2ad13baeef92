"""Data sets with generated oddities, and what lies on the disk counted without the project's readers."""

from __future__ import annotations

import functools
import io
import os
import random
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image

IMAGE_NAMES = (
    "{n}.png",
    "{n}.PNG",
    "{n}.v2.png",
    "{n} b.bmp",
    "ü{n}.jpeg",
    "{n}#.tif",
    "{n}.gif",
    "{n}.ppm",
    "{n}.webp",
)
OTHER_NAMES = ("{n}.txt", "{n}.heic", "{n}", "Thumbs{n}.db", ".DS_Store{n}", "._{n}.png", "{n}.json", ".{n}.jpg")
HIDDEN = (".ipynb_checkpoints", "__MACOSX", ".git/objects")
KINDS = {
    "png": "PNG",
    "bmp": "BMP",
    "jpeg": "JPEG",
    "tif": "TIFF",
    "gif": "GIF",
    "ppm": "PPM",
    "webp": "WEBP",
    "jpg": "JPEG",
}


@functools.cache
def picture(number: int, ending: str = "png") -> bytes:
    """Encoded image of 9 × 8 pixels that depend on `number`."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, KINDS[ending.lower()])
    return stream.getvalue()


def odd_folder(root: Path, rng: random.Random, outside: Path) -> tuple[set[str], int]:
    """Fills `root` with two class folders; the images that a reader must find, and the number of all files."""
    images, number = set(), 0
    for name in ("a", "b c"):
        places = [root / name, root / name / "deep" / "er", *(root / name / hidden for hidden in rng.sample(HIDDEN, 2))]
        if rng.random() < 0.5:  # a folder elsewhere, linked into the class
            elsewhere = outside / f"{root.name}-{name}"
            elsewhere.mkdir(parents=True)
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / "linked").symlink_to(elsewhere)
            places.append(root / name / "linked")
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            hidden = any(part.startswith(".") or part == "__MACOSX" for part in place.relative_to(root).parts)
            for pattern in (*rng.choices(IMAGE_NAMES, k=4), *rng.choices(OTHER_NAMES, k=3)):
                number += 1
                path = place / pattern.format(n=number)
                image = pattern in IMAGE_NAMES
                path.write_bytes(picture(number, path.suffix[1:]) if image else b"x")
                if image and not hidden:
                    images.add(str(path))
    (root / "readme.md").write_text("x")
    if rng.random() < 0.5:
        (root / "a" / "deep" / "circle").symlink_to(root / "a")
    linked = list(outside.iterdir()) if outside.exists() else []
    files = sum(len(files) for place in (root, *linked) for _, _, files in os.walk(place))
    return images, files


def odd_shard(path: Path, rng: random.Random, lacking: bool = False) -> tuple[dict[str, int], int]:
    """Writes a shard; key -> label of the samples that a reader must find, and the number of all members.

    `lacking`: the last sample has no label, which is -1.
    """
    members: list[tuple[str, bytes]] = []
    labels: dict[str, int] = {}
    for number in range(12):
        key, label = f"d{number % 2}/{number:03d}", rng.randrange(3)
        key += rng.choice(("", "", ".v2", ".a.b"))
        ending = rng.choice(("png", "JPG", "jpeg", "webp", "gif"))
        sample = [(f"{key}.{ending}", picture(number, ending)), (f"{key}.cls", str(label).encode())]
        if rng.random() < 0.4:
            sample.append((f"{key}.json", rng.choice((b'{"label": "a"}', b'{"url": 1}', b"{", b"[1]"))))
        if rng.random() < 0.3:
            sample.append((f"{key}.txt", b"caption"))
        if rng.random() < 0.3 and "." not in key:
            sample.append((f"{key}.seg.png", picture(50)))
        if rng.random() < 0.2:
            sample.append((f"{os.path.dirname(key)}/._{number}.png", b"x"))
        rng.shuffle(sample)
        members += sample
        labels[key] = label
    if lacking:
        members.append(("last.png", picture(99)))
        labels["last"] = -1
    members.append(("lonely.cls", b"1"))
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, members[0][0]
        tar.addfile(link)
    return labels, len(members) + 1
