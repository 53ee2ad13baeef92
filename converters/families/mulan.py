"""MULAN's public code: `checkpoint.pth` with two models and its optimiser."""

from converters.families.base import Family

FAMILY = Family(
    "MULAN's public code",
    ("online_model.backbone.",),
    ("target_model.backbone.",),
    rank=10,
    positions="dinov2",
    stand_ins=("optim.exclude_bias_and_norm",),  # its LARS keeps its two filters in `param_groups`
)
