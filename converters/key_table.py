"""Report of a conversion: the fate of every tensor in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class KeyTable:
    """Every tensor of the file is in exactly one of `matched`, `renamed` and `dropped`."""

    matched: tuple[str, ...]
    """Names that the file and the destination share."""
    renamed: tuple[tuple[str, str], ...]
    """(name in the file, name in the destination)."""
    dropped: tuple[tuple[str, str], ...]
    """(name in the file, why it is not part of the backbone)."""
    filled: tuple[str, ...] = ()
    """Names in the destination that the file lacks and that are set to 0: batch counters of old files."""

    def compose(self, names: Mapping[str, str], left_out: str = "") -> KeyTable:
        """Report from the file through timm's names to another destination; `names`: timm's name -> its name.

        Tensors that `names` lacks are dropped, with `left_out` as the reason.
        """
        read = [*((name, name) for name in self.matched), *self.renamed]
        pairs = [(old, names[new]) for old, new in read if new in names]
        return KeyTable(
            tuple(new for old, new in pairs if old == new),
            tuple((old, new) for old, new in pairs if old != new),
            (*self.dropped, *((old, left_out) for old, new in read if new not in names)),
            tuple(names[name] for name in self.filled if name in names),
        )

    def summary(self) -> str:
        """The counts, in one line."""
        line = f"{len(self.matched)} matched, {len(self.renamed)} renamed, {len(self.dropped)} dropped"
        return line + (f", {len(self.filled)} filled with 0" if self.filled else "")

    def text(self) -> str:
        """The full report, one line per tensor; dropped tensors are grouped by reason."""
        lines = [f"  {name}" for name in self.matched]
        lines += [f"  {old} -> {new}" for old, new in self.renamed]
        reasons = dict.fromkeys(reason for _, reason in self.dropped)
        for why in reasons:
            lines.append(f"  dropped, {why}:")
            lines += [f"    {name}" for name, reason in self.dropped if reason == why]
        lines += [f"  {name} = 0, absent in the file" for name in self.filled]
        return "\n".join([self.summary(), *lines])
