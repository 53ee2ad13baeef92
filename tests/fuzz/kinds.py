"""Every kind of input that is fuzzed, and how often."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from core.errors import BrokenImage, UserError
from tests.fuzz.annotated_kinds import coco_layouts, segmentation_layouts, voc_layouts
from tests.fuzz.checkpoint_kinds import checkpoint_bytes, checkpoint_contents, unfinished_probes
from tests.fuzz.command_kinds import command_lines
from tests.fuzz.config_kinds import architectures, config_files, overrides
from tests.fuzz.data_kinds import coco_json, images, label_maps, shards, voc_xml
from tests.fuzz.kept_kinds import feature_cache, results
from tests.fuzz.layout_kinds import folder_layouts, shard_layouts
from tests.fuzz.trial import Trial

KINDS: dict[str, tuple[Callable[[Path], Trial], int]] = {
    "config files": (config_files, 2500),
    "overrides": (overrides, 2500),
    "command lines": (command_lines, 300),
    "architectures": (architectures, 500),
    "checkpoints, bytes": (checkpoint_bytes, 1500),
    "checkpoints, contents": (checkpoint_contents, 1000),
    "COCO JSON": (coco_json, 2000),
    "VOC XML": (voc_xml, 1500),
    "images": (images, 3000),
    "label maps": (label_maps, 1000),
    "shards": (shards, 1000),
    "folder layouts": (folder_layouts, 3000),
    "shard layouts": (shard_layouts, 3000),
    "COCO layouts": (coco_layouts, 2000),
    "VOC layouts": (voc_layouts, 1000),
    "segmentation layouts": (segmentation_layouts, 1000),
    "feature caches": (feature_cache, 500),
    "results": (results, 1000),
    "unfinished probes": (unfinished_probes, 500),
}
"""Name -> how trials of it are made, and how many of them the long form has."""
REFUSED = (UserError, BrokenImage)
