"""RegNets: found among timm's by depth and shapes, as their widths follow from a formula."""

from __future__ import annotations

import re

from converters.candidates import sketch
from converters.inference.base import Inference, Tensors
from converters.inference.hints import Hints
from core.backbones import BackboneConfig
from core.coverage import compare
from core.errors import UserError


def _config(tensors: Tensors, hints: Hints) -> tuple[BackboneConfig, str]:
    import timm

    blocks = len({match[0] for name in tensors if (match := re.match(r"s\d+\.b\d+\.", name))})
    gated = "s1.b1.se.fc1.weight" in tensors
    settings = timm.models.regnet.model_cfgs
    for name in timm.list_models(module="regnet"):
        found = settings.get(name)
        if found is None or found.depth != blocks or bool(found.se_ratio) != gated:
            continue
        if compare(sketch(BackboneConfig(name)), tensors).complete:
            return BackboneConfig(name), ""
    raise UserError(f"a RegNet of {blocks} blocks and these widths is none of timm's; give --arch")


INFERENCE = Inference(("s1.b1.conv1.conv.weight", "stem.conv.weight"), _config)
