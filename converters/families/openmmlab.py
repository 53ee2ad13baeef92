"""OpenMMLab: MMPretrain, MMSelfSup and MMSegmentation."""

from converters.families.base import Family

FAMILY = Family(
    "OpenMMLab",
    ("backbone.", "online_net.0.", "encoder_q.0.", ""),
    ("target_net.0.", "momentum_encoder.0.", "encoder_k.0."),
    mark=r"meta$|neck\.|(target_net|online_net|momentum_encoder|encoder_[qk])\.0\.",
    rank=20,  # its `backbone.` is lightly's and solo-learn's too, and their marks fit its heads
    heads={384: 12},
    heads_mark=r"momentum_encoder\.",  # MoCo v3's small ViT
    note="style 'pytorch' assumed for ResNets, the weights don't show it",
)
