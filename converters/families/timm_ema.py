"""timm's training script with averaged weights."""

from converters.families.base import Family

FAMILY = Family(
    "timm with averaged weights",
    ("",),
    ("state_dict_ema.", "model_ema."),
    mark=r"(state_dict|model)_ema\.",
    rank=60,
)
