"""Large inputs: memory and time of a bank of a million features, 100,000 files and COCO's annotations of 50,000 images.

`python tests/reliability/load.py` measures all three; `--share 0.01` the same with a hundredth of everything.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402  (the root is on the path first)

from tests.security.watched import watch  # noqa: E402

_ROOM = 2**30  # containers often have 64 MiB of it
FOLDERS = "/dev/shm" if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > _ROOM else None


@dataclass(frozen=True)
class Measured:
    """One figure."""

    what: str
    size: float
    """MiB of the input itself."""
    peak: float
    """MiB of memory beyond those of a process that does nothing."""
    seconds: float
    """Of the processor: a busy machine doesn't lengthen it."""

    def text(self) -> str:
        """One line."""
        memory = f", peak {self.peak:,.0f} MiB" if self.peak else ""
        memory += f", {self.peak / self.size:.2f} × the input's {self.size:,.0f} MiB" if self.size else ""
        return f"{self.what}: {self.seconds:.1f} s of processor time{memory}"


def bank(rows: int, storage: str) -> Measured:
    """The 20 nearest of `rows` × 256 random features for 1,000 queries, by k-NN's own search on one thread."""
    import torch

    from core.distributed import Processes
    from core.features import Features
    from evaluate.probes.knn.protocol import find_neighbours
    from evaluate.probes.knn.search import open_engine

    processes = Processes(0, 1, torch.device("cpu"))
    engine = open_engine(processes)
    numbers = np.arange(rows)

    def features(count: int, seed: int) -> Features:
        rng = np.random.default_rng(seed)
        values = np.empty((count, 256), storage)
        for start in range(0, count, 10000):
            block = rng.standard_normal((min(10000, count - start), 256), dtype=np.float32)
            values[start : start + 10000] = block / np.linalg.norm(block, axis=1, keepdims=True)
        labels = numbers[:count] % 100
        return Features(values, labels, numbers[:count], "random", tuple(map(str, range(100))), ())

    def search() -> None:
        found, _ = find_neighbours(features(rows, 0), features(min(rows, 1000), 0), 20, processes, engine)
        assert (found.positions[:, 0] == numbers[:1000][: len(found.positions)]).all()  # each finds itself

    size = rows * 256 * np.dtype(storage).itemsize / 2**20
    return _measured(f"k-NN, {rows:,} × 256 {storage}", size, search)


def folder(files: int) -> list[Measured]:
    """An image folder of `files` tiny images in 100 classes: opened, and until pre-training has printed its plan."""
    import PIL.Image

    from core.data.readers.folder import Folder

    with tempfile.TemporaryDirectory(dir=FOLDERS) as name:
        root = Path(name) / "data" / "train"
        for number in range(100):
            (root / f"class{number:03d}").mkdir(parents=True)
            original = root / f"class{number:03d}" / "0.png"
            PIL.Image.new("RGB", (8, 8), (number, 0, 0)).save(original)
            for copy in range(1, files // 100):
                os.link(original, original.with_name(f"{copy}.png"))

        def opened() -> None:
            images = Folder(root, "x")
            images.digest()
            assert len(images) == files // 100 * 100

        alone = _measured(f"folder of {files:,} images, opened and digested", 0, opened)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [
            *(sys.executable, "pretrain/run.py", "--config", "configs/pretrain/demo_scenes.yaml", "--dry-run"),
            *("--device", "cpu", "--data", f"folder:{root.parent}", "--out", f"{name}/run"),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert f"{files // 100 * 100} images" in done.stdout, done.stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        whole = Measured(f"folder of {files:,} images, pretrain/run.py --dry-run, whole", 0, 0, seconds)
        return [alone, whole]


def coco(images: int) -> list[Measured]:
    """COCO's annotations of `images` images, seven objects each with polygons of 20 points, as for training.

    Beside it what Python's own reader takes for the same file, which the text and one set of objects fill.
    """
    from evaluate.detection.data.coco_data import open_coco

    with tempfile.TemporaryDirectory(dir=FOLDERS) as name:
        root = Path(name)
        (root / "annotations").mkdir()
        (root / "train2017").mkdir()
        file = root / "annotations" / "instances_train2017.json"
        _write_coco(file, images)
        first = root / "train2017" / "0.jpg"
        first.write_bytes(b"x")
        for number in range(1, images):
            os.link(first, first.with_name(f"{number}.jpg"))

        def opened() -> None:
            found = open_coco(root, "train", True, "polygon", 0.0)
            assert sum(len(record["annotations"]) for record in found.records) == 7 * images

        def parsed() -> None:
            with file.open(encoding="utf-8") as text:
                json.load(text)

        size = file.stat().st_size / 2**20
        return [
            _measured(f"COCO JSON of {images:,} images, opened and checked", size, opened),
            _measured("the same, parsed alone", size, parsed),
        ]


def _write_coco(file: Path, images: int) -> None:
    rng = np.random.default_rng(0)
    shapes = [np.round(rng.uniform(0, 400, 40), 2).tolist() for _ in range(500)]
    with file.open("w", encoding="utf-8") as out:
        listed = ({"id": n, "file_name": f"{n}.jpg", "height": 480, "width": 640} for n in range(images))
        out.write(f'{{"images": [{", ".join(map(json.dumps, listed))}], "categories": [{{"id": 1, "name": "cat"}}]')
        out.write(', "annotations": [')
        for number in range(7 * images):
            one = {"id": number + 1, "image_id": number // 7, "category_id": 1, "iscrowd": 0, "area": 100.5}
            one |= {"bbox": [1.5, 2.5, 30.25, 40.75], "segmentation": [shapes[number % 500]]}
            out.write((", " if number else "") + json.dumps(one))
        out.write("]}")


def _measured(what: str, size: float, action: Callable[[], object]) -> Measured:
    outcome = watch(action, patience=900)
    assert outcome.kind == "opened", outcome
    return Measured(what, size, outcome.mebibytes, outcome.seconds)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Memory and time of large inputs.")
    parser.add_argument("--share", type=float, default=1.0, help="of the usual sizes (default 1)")
    share = parser.parse_args().share
    for storage in ("float32", "float16"):
        print(bank(int(share * 10**6), storage).text(), flush=True)
    for measured in (*folder(int(share * 10**5)), *coco(int(share * 50000))):
        print(measured.text(), flush=True)


if __name__ == "__main__":
    main()
