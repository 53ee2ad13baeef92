"""pretrain/views/config.py: impossible settings are refused by name; configs survive a round trip."""

from __future__ import annotations

import math

import pytest

from core.config import from_dict, to_dict
from pretrain.views.config import PhotometricConfig, ViewConfig


@pytest.mark.parametrize(
    ("values", "printed"),
    [
        ({"area": (0.5, 1.2)}, "area"),
        ({"weight": math.nan}, "weight"),
        ({"photometric": ()}, "photometric.* 2 .*0"),
        ({"photometric": (PhotometricConfig(),) * 3}, "photometric.* 2 .*3"),
        ({"size": 11}, r"photometric\.blur_kernel.* 23 .* 11\b.* 21"),
        ({"transform_options": {"grid": 2}}, r"transform_options.*'grid'.*transform"),
        ({"transform": "jigsaw"}, "'jigsaw'"),
        ({"transform": "cutout", "transform_options": {"areas": 1}}, r"\bareas\b.*\barea, ratio"),
        ({"transform": "shuffle", "transform_options": {"grid": 3}}, r"grid.* 3 .*224"),
    ],
)
def test_impossible_view_settings_name_the_field(values: dict[str, object], printed: str) -> None:
    with pytest.raises(ValueError, match=printed):
        ViewConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "printed"),
    [
        ({"blur_p": -0.1}, "blur_p.*0…1"),
        ({"jitter": (0.4, 0.4, 0.2, 0.6)}, "jitter"),
        ({"blur_sigma": (0.0, 2.0)}, "blur_sigma"),
        ({"blur_kernel": 4}, "blur_kernel"),
    ],
)
def test_impossible_photometric_settings_name_the_field(values: dict[str, object], printed: str) -> None:
    with pytest.raises(ValueError, match=printed):
        PhotometricConfig(**values)  # type: ignore[arg-type]


def test_the_config_reads_back_from_plain_values() -> None:
    two = (PhotometricConfig(blur_p=1.0), PhotometricConfig(blur_p=0.1, solarise_p=0.2))
    config = ViewConfig(count=3, photometric=two, transform="cutout", transform_options={"area": [0.1, 0.2]})
    assert from_dict(ViewConfig, to_dict(config)) == config
    assert config.transform_config.area == (0.1, 0.2)
