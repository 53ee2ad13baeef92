"""One kind of checkpoint: how its file is made, and what its own code computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from converters.open import open_backbone
from core.backbones import describe, family_of, pooled_features

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 32, "patch_size": 8}


@dataclass(frozen=True)
class Made:
    """A written checkpoint, and the outcome of its own code on `images`."""

    ckpt: str
    """Argument for --ckpt."""
    expected: Tensor
    """[B, D], [B, N, D] or [B, C, h, w], by `part`."""
    part: Literal["vector", "tokens", "map", "cls", "patches"] = "vector"
    """What is compared: the image vector, all tokens, the last map, the class token or the mean patch token."""
    network: Literal["online", "target"] = "online"
    arch: str | None = None
    images: Tensor = IMAGES


@dataclass(frozen=True)
class Kind:
    """A row of the table."""

    name: str
    """The project, and what the file is."""
    code: str
    """Code that the features are compared with."""
    make: Callable[[Path], Made]
    """Writes the checkpoint into an empty folder."""


@dataclass(frozen=True)
class Outcome:
    """The kind's row."""

    kind: Kind
    opens_as: str
    """Description of the backbone, or the error's first words."""
    difference: float | None
    """Largest difference as a share of the largest value; None where it doesn't open."""


def measure(kind: Kind, folder: Path) -> Outcome:
    """Makes the file, opens it and compares the features."""
    from core.errors import UserError

    folder.mkdir(parents=True)
    try:
        made = kind.make(folder)
    except Exception as error:
        raise RuntimeError(f"{kind.name} can't be made") from error
    try:
        backbone = open_backbone(made.ckpt, made.network, made.arch)
    except UserError as error:
        return Outcome(kind, f"refused: {str(error).replace(str(folder), 'FILE')[:120]}", None)
    model: Any = backbone.model
    with torch.inference_mode():
        found = _part(model, made)
    assert found.shape == made.expected.shape, f"{kind.name}: {list(found.shape)}, not {list(made.expected.shape)}"
    scale = float(made.expected.abs().max())
    return Outcome(kind, describe(backbone.config), float((found - made.expected).abs().max()) / scale)


def _part(model: Any, made: Made) -> Tensor:
    if made.part in ("cls", "patches"):
        return pooled_features(model, made.images, made.part)  # type: ignore[arg-type]
    if made.part == "vector":
        return pooled_features(model, made.images)
    if made.part == "map":
        return family_of(model).maps(model, made.images)[-1][1]
    tokens = family_of(model).tokens(model, made.images)
    return torch.cat([tokens.prefix, tokens.patches], dim=1)


def randomised(model: nn.Module, seed: int = 0) -> Any:
    """The model in evaluation mode with every tensor random, so that no part hides behind its initial state."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point() or name.endswith(("periods", "relative_coords_table")):
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim <= 1:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.2)
            else:
                tensor.normal_(0, 0.1, generator=generator)
    return model.eval()


def build(config_name: str, seed: int = 0, **args: Any) -> Any:
    """timm's own model without a head, by timm alone."""
    import timm

    return randomised(timm.create_model(config_name, num_classes=0, **args), seed)
