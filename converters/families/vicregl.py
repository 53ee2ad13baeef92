"""VICRegL: one network with projectors for vectors and for maps, and an online classifier."""

from converters.families.base import Family

FAMILY = Family("VICRegL", ("backbone.",), mark=r"maps_projector\.", rank=35)
