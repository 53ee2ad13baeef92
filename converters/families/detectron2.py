"""Detectron2: converted ResNets (`.pkl`) and detectors trained from them."""

from converters.families.base import Family

FAMILY = Family(
    "Detectron2",
    ("backbone.bottom_up.", "backbone.", ""),
    mark=r"matching_heuristics$|(.*\.)?res2\.0\.",
    rank=10,  # its mark is the most specific of all
)
