"""DINO, and what shares its layout (iBOT, EsViT, CrIBo, DINOv2's own runs)."""

from converters.families.base import Family

FAMILY = Family("DINO", ("student.backbone.",), ("teacher.backbone.",), rank=10, positions="dinov2")
