"""I-JEPA and MSN, both of which evaluate the target network."""

from converters.families.base import Family

FAMILY = Family(
    "I-JEPA or MSN",
    ("encoder.",),
    ("target_encoder.",),
    mark=r"target_encoder\.",
    rank=35,  # SimSiam's `encoder.` and `predictor.` are in its files too
)
