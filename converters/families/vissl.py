"""VISSL."""

from converters.families.base import Family

FAMILY = Family(
    "VISSL",
    ("classy_state_dict.base_model.model.trunk._feature_blocks.",),
    rank=60,
    dictionaries=("vissl.config.attr_dict.AttrDict",),
)
