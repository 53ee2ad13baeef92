"""solo-learn: Lightning checkpoints with an online classifier."""

from converters.families.base import Family

FAMILY = Family(
    "solo-learn",
    ("backbone.", "encoder."),
    ("momentum_backbone.", "momentum_encoder."),
    mark=r"classifier\.|momentum_(projector|classifier|backbone)\.",
    rank=40,  # its `classifier.` is a common name
    padded_stem=True,
    heads={192: 12, 384: 12, 768: 12},
    heads_mark=r"decoder\.",  # its ViTs for MAE, and they alone, have 12 heads at every width up to base
    stand_ins=tuple(
        f"omegaconf.{name}"
        for name in (
            "dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata",
            "nodes.AnyNode", "nodes.StringNode", "nodes.IntegerNode", "nodes.FloatNode", "nodes.BooleanNode",
        )
    ),
)  # fmt: skip
