"""lightly: its examples and benchmarks."""

from converters.families.base import Family

FAMILY = Family(
    "lightly",
    ("backbone.", "student_backbone.", "student_backbone.vit."),
    ("backbone_momentum.", "teacher_backbone.", "teacher_backbone.vit."),
    mark=r"backbone\.\d|(projection|prediction)_head|student_|teacher_|backbone_momentum\.",
    rank=30,
)
