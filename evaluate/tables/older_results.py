"""Kind, scale and version of a result, also of one written before results stated them: those are read off its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_PREFIXES = {
    **{f"{kind}_": kind for kind in ("knn", "linear", "logreg", "finetune", "transfer")},
    **dict.fromkeys(("coco", "voc_frcnn_", "scenes_maskrcnn_"), "detection"),
    **dict.fromkeys(("ade20k_", "cityscapes_", "voc_fcn_", "scenes_fcn_"), "segmentation"),
}
_METRICS = {
    "mIoU": "segmentation",
    "box_ap": "detection",
    "linear": "transfer",
    "k": "knn",
    "fits": "logreg",
    "heads": "linear",
}
_SCALED_DOWN = re.compile(r"(?:^|_)(?:scenes|fashion_mnist)_|^transfer_small$")


def kind_of(document: Mapping[str, Any]) -> str:
    """The kind a result.json states; of an older one that which its protocol's name begins with, or, under a user's own
    name, that which alone writes its metrics. Raises `ValueError` if neither is known."""
    if (stated := document.get("kind")) is not None:
        return str(stated)
    name = str(document["protocol"])
    found = [kind for prefix, kind in _PREFIXES.items() if name.startswith(prefix)]
    found += [kind for key, kind in _METRICS.items() if key in document["metrics"]]
    if not found:
        raise ValueError(f"neither its protocol {name!r} nor its metrics are of a known kind")
    return found[0]


def version_of(document: Mapping[str, Any]) -> int:
    """Version of the protocol; results written before they stated it are of version 1.

    Raises `ValueError` if it is not a positive whole number.
    """
    version = document.get("protocol_version", 1)
    if type(version) is not int or version < 1:
        raise ValueError(f"its protocol_version is {version!r}")
    return version


def scaled_down(document: Mapping[str, Any]) -> bool:
    """True if the protocol is scaled down, as stated by result.json; for older results, by the protocol's name."""
    stated = document.get("scaled_down")
    if stated is not None:
        return stated is True
    return _SCALED_DOWN.search(str(document["protocol"]).partition(" ")[0]) is not None
