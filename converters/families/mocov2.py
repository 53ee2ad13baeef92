"""MoCo v1 and v2, and what shares their layout (DenseCL, SlotCon)."""

from converters.families.base import Family

FAMILY = Family("MoCo v2", ("encoder_q.",), ("encoder_k.",), rank=30)
