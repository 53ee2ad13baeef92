"""Damaged files that the project itself keeps: features, results, names of rows and metrics."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.run_folder import drop_metrics_after
from evaluate.probes.features.cache import _complete, _open
from evaluate.tables.published import read_published
from evaluate.tables.renderers import render
from evaluate.tables.report.curves import read_run
from evaluate.tables.report.page import write_page
from evaluate.tables.results import read_names, read_results
from evaluate.tables.transfer_table import build_table
from tests.fuzz.mutations import changed, damaged
from tests.fuzz.trial import Trial


def feature_cache(folder: Path) -> Trial:
    """Kept features: sound, or made again."""
    key = {"images": 20, "storage": "float32"}
    values, numbers = np.arange(60, dtype=np.float32).reshape(20, 3), np.arange(20)
    np.save(folder / "values.npy", values)
    np.savez(folder / "index.npz", rows=numbers, labels=numbers % 3, positions=numbers)
    facts = {"key": key, "broken": [], "shape": [20, 3]}
    (folder / "facts.json").write_text(json.dumps(facts))
    sound = {name: (folder / name).read_bytes() for name in ("values.npy", "index.npz", "facts.json")}

    def trial(rng: random.Random) -> None:
        for name, content in sound.items():
            (folder / name).write_bytes(content)
        name = rng.choice(list(sound))
        content = damaged(sound[name], rng)
        if name == "facts.json" and rng.random() < 0.7:
            content = json.dumps(changed(facts, rng)).encode()
        (folder / name).write_bytes(content)
        if not _complete(folder, key):
            raise UserError("made again")
        found = _open(folder)
        assert found.values.shape == (20, 3)
        assert found.labels.tolist() == (numbers % 3).tolist()
        assert found.values[found.rows].shape == (len(found.rows), 3)

    return trial


def results(folder: Path) -> Trial:
    """Results, names of rows and metrics, as the table and the report read them."""
    document = {
        "format": "ssl-transfer/result/1", "protocol": "knn_dino", "metrics": {"top1": 50.0, "top5": 90.0, "k": 20},
        "backbone": "resnet18", "seed": 0, "settings": {}, "wall_seconds": 1.0, "device": "CPU", "libraries": {},
        "checkpoint": {"given": "x", "backbone_sha256": "ab" * 32, "family": "random"}, "date": "2026-01-01T00:00:00Z",
        "data": {"bank": {"name": "x", "images": 5, "digest": "cd" * 32}}, "git_revision": "x",
    }  # fmt: skip
    line = json.dumps({"step": 1, "epoch": 0.5, "loss": 0.25, "loss/global": 0.25}) + "\n"
    published = read_published()
    run = folder / "run"
    run.mkdir()

    def trial(rng: random.Random) -> None:
        (run / "metrics.jsonl").write_bytes(damaged((line * 5).encode(), rng))
        drop_metrics_after(run, 1)
        read_run(run / "metrics.jsonl")
        (folder / "names.yaml").write_bytes(damaged(b"resnet18, random initialisation: ours\n", rng))
        text = (
            json.dumps(changed(document, rng)).encode()
            if rng.random() < 0.7
            else damaged(json.dumps(document).encode(), rng)
        )
        (folder / "result.json").write_bytes(text)
        found = read_results(folder)
        table = build_table(found, published, read_names(folder))
        for form in ("markdown", "csv", "latex"):
            assert "nan" not in render(table, form, Path()).lower().split()
        page = write_page(table, found, folder / "page").read_text(encoding="utf-8", errors="surrogatepass")
        assert "<script" not in page

    return trial
