"""SimSiam."""

from converters.families.base import Family

FAMILY = Family("SimSiam", ("encoder.",), mark=r"predictor\.", rank=60)
