"""The description of a checkpoint family: where one project's files keep their networks, and what they do not show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from core.backbones.positions import PosResize

Network = Literal["online", "target"]


@dataclass(frozen=True)
class Family:
    """Location of the networks in one project's files."""

    name: str
    """Project that writes these files, for messages."""
    online: tuple[str, ...]
    """Prefixes of the trained network's backbone; the first that is present is taken."""
    target: tuple[str, ...] = ()
    """The same for the momentum network; empty where the method has none."""
    mark: str = ""
    """Regular expression that the start of one more name in the file must match; empty where the prefixes decide."""
    rank: int = 50
    """Families are tried in ascending rank, those of equal rank by name. A family whose prefixes and mark fit another
    family's files too comes before it, or after it, by its rank."""
    note: str = ""
    """Assumptions about what the weights do not show."""
    padded_stem: bool = False
    """Its 3×3 stems have a border of 2 pixels, which the weights do not show."""
    positions: PosResize | None = None
    """Rule by which its code resizes position embeddings; None: the key map's rule."""
    heads: Mapping[int, int] = field(default_factory=dict)
    """Width of a ViT -> its number of attention heads, where the project's differs from width / 64."""
    heads_mark: str = ""
    """As `mark`: `heads` holds for files with such a name; empty for all files of the family."""
    stand_ins: tuple[str, ...] = ()
    """`module.name` of classes and functions in its files that carry no weights: read as inert placeholders."""
    dictionaries: tuple[str, ...] = ()
    """The same for subclasses of dict, whose items are read."""
