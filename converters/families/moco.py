"""MoCo: v1 and v2, and what shares their layout (DenseCL, SlotCon); v3."""

from converters.families.base import Family

FAMILIES = (
    Family("MoCo v2", ("encoder_q.",), ("encoder_k.",), rank=30),
    Family("MoCo v3", ("base_encoder.",), ("momentum_encoder.",), mark=r"base_encoder\.", rank=10),
)
