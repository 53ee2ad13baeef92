"""Command-line options for what a backbone's file does not state; free of heavy imports."""

from __future__ import annotations

import argparse


def add_backbone_settings(parser: argparse.ArgumentParser) -> None:
    """Adds --mean, --std, --in-chans and --pos-resize, for weights whose file does not state them."""
    for name, what in (("mean", "subtracted from the images"), ("std", "by which the images are divided")):
        parser.add_argument(
            f"--{name}", type=_numbers, metavar="R,G,B",
            help=f"numbers {what}, per channel, for values in 0 … 1 (default: of the file or the settings beside it)",
        )  # fmt: skip
    parser.add_argument(
        "--in-chans", type=int, metavar="N",
        help="adapt the first convolution of RGB weights to N channels, as timm does; needs --mean and --std",
    )  # fmt: skip
    parser.add_argument(
        "--pos-resize",
        choices=("timm", "dinov2", "dinov2_antialias", "bicubic"),
        help="rule by which a ViT's position embeddings are resized (default: that of the file's project)",
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 0.485,0.456,0.406") from None
