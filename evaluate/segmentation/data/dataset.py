"""The data set as the engine sees it: the pairs that were checked, without those known to be broken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from core.errors import BrokenImage, UserError
from evaluate.common.broken_file import note_broken
from evaluate.segmentation.data.layouts import Split, list_split


@DATASETS.register_module()
class LayoutDataset(BaseSegDataset):
    """Image and label of every sample of a split, in the order of `list_split`."""

    def __init__(
        self,
        layout: str,
        split: Split,
        report: str,
        broken_share: float,
        left_out: Sequence[int] = (),
        **options: Any,
    ) -> None:
        """`report`: file where training images found broken are named; `left_out`: positions that are not seen.

        `options`: of the engine's data set.
        """
        self.layout, self.split, self.left_out = layout, split, frozenset(left_out)
        self.report, self.broken_share = Path(report), broken_share
        super().__init__(**options)

    def load_data_list(self) -> list[dict[str, Any]]:
        """What the pipeline starts from, one dictionary per sample."""
        pairs = list_split(Path(self.data_root), self.layout, self.split)
        self.listed = len(pairs)
        common = {"label_map": self.label_map, "reduce_zero_label": self.reduce_zero_label}
        return [
            {"img_path": str(image), "seg_map_path": str(label), **common, "seg_fields": []}
            for position, (image, label) in enumerate(pairs)
            if position not in self.left_out
        ]

    def prepare_data(self, idx: int) -> Any:
        """A sample; None, in whose place the engine draws another one, for a training image that is broken."""
        try:
            return super().prepare_data(idx)
        except BrokenImage as error:
            if self.test_mode:
                raise UserError(f"{error}; it could be read when the run began, so check the disk") from None
            note_broken(self.report, str(error), self.listed, self.broken_share)
            return None


def test_set(settings: dict[str, Any], left_out: Sequence[int]) -> LayoutDataset:
    """The test images of the run with these settings, without the positions `left_out`."""
    import evaluate.segmentation.data.transforms  # noqa: F401, what the settings name is registered here

    found: LayoutDataset = DATASETS.build(settings["test_dataloader"]["dataset"] | {"left_out": left_out})
    return found
