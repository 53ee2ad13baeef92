"""Command line of the segmentation evaluation."""

from __future__ import annotations

import argparse

from evaluate.common.cli import add_data, add_draw, add_frozen, evaluation_parser, parse
from evaluate.probes.ood.corrupted import add_corrupt, corruption_cells

DEFAULT_PROTOCOL = "scenes_fcn_r18_400it"


def parse_arguments() -> argparse.Namespace:
    """The checked arguments. Raises `UserError`."""
    parser = evaluation_parser(
        "Train a segmentation head on a backbone (and fine-tune the backbone, if the protocol says so) and measure "
        "mIoU with MMSegmentation. A killed run resumes when the same command is given again.",
        "python evaluate/segment.py --ckpt runs/vit_s --protocol ade20k_upernet_vit_s_160k "
        "--data /data/ADEChallengeData2016",
        default=DEFAULT_PROTOCOL,
    )
    add_data(parser, "data.root", "folder of the data set (not needed for the built-in scenes)")
    add_draw(parser)
    add_frozen(parser, "network")
    parser.add_argument("--batch", type=int, help="another global batch; learning rate and iterations are scaled")
    parser.add_argument("--restart", action="store_true", help="train again even if the folder holds a run")
    add_corrupt(parser)
    arguments = parse(parser)
    arguments.corrupt = corruption_cells(arguments.corrupt)
    return arguments
