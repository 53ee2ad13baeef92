"""MoCo v3."""

from converters.families.base import Family

FAMILY = Family("MoCo v3", ("base_encoder.",), ("momentum_encoder.",), mark=r"base_encoder\.", rank=10)
