"""Shared by tests of pre-training: one run that nothing interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pretrain.tiny_run import recipe, run


@pytest.fixture(scope="session")
def uninterrupted(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Its last state, and its lines of metrics."""
    out = tmp_path_factory.mktemp("whole")
    return run(recipe(image_folder), out), (out / "metrics.jsonl").read_text()
