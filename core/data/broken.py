"""The account of broken images: each named once, and an end to the run where they are too many."""

from __future__ import annotations

from collections.abc import Iterable

from core.errors import UserError


class BrokenImages:
    """Collects the names of broken images of one data set."""

    def __init__(self, total: int, allowed_share: float) -> None:
        self.total = total
        self.allowed_share = allowed_share
        self.names: list[str] = []
        self._known: set[str] = set()

    def add(self, names: Iterable[str]) -> list[str]:
        """Notes the names and gives back those not seen before.

        Raises `UserError` with the list once more than `allowed_share` of all images are broken.
        """
        new = []
        for name in names:
            if name not in self._known:
                self._known.add(name)
                new.append(name)
        self.names.extend(new)
        if new and len(self.names) > self.allowed_share * self.total:
            listed = "; ".join(self.names[:20]) + ("; …" if len(self.names) > 20 else "")
            raise UserError(
                f"{len(self.names)} of {self.total} images are broken, more than the allowed share "
                f"{self.allowed_share:g}: {listed}; mend or remove them, or raise broken_share"
            )
        return new
