"""PixPro."""

from converters.families.base import Family

FAMILY = Family(
    "PixPro",
    ("encoder.",),
    ("encoder_k.",),
    mark=r"(projector_k|value_transform)\.",
    rank=25,  # its `encoder_k.` is MoCo's
)
