"""Interface of a backbone family, and the values that describe one backbone."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from core.backbones.positions import PosResize
from core.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_CHANNELS = 16

Pooling = Literal["auto", "avg", "map", "cls", "patches", "cls+patches"]
Dense = Literal["stages", "patches", "none"]


@dataclass(frozen=True)
class BackboneConfig:
    name: str = "resnet50"
    """timm's name of a model with feature maps, without a weights tag."""
    args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of timm's model, e.g. `channels: [16, 32, 64, 128]` for a quarter-width ResNet, or `in_chans`,
    1 … 16 channels of the images (3: RGB). Ours are `norm_eps`: ε of all layer norms; for ViTs `conv_stem: true`: MoCo
    v3's stem of convolutions; for ResNets with one convolution as stem `stem_channels`: its filters."""
    stem: Literal["imagenet", "small", "small_padded"] = "imagenet"
    """ResNet only. `small`: 3×3 convolution of stride 1 without max pooling, for images of about 32 px;
    `small_padded`: the same with a border of 2 instead of 1 pixels, as solo-learn trains it."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per-channel mean (RGB, image values in 0 … 1) that is subtracted from the input."""
    std: tuple[float, ...] = IMAGENET_STD
    """Per-channel standard deviation (RGB) by which the input is divided."""
    pos_resize: PosResize = "timm"
    """Plain ViTs only: rule by which learned position embeddings are resized for images of another size.
    `dinov2`: as DINO, iBOT and DINOv2 without registers (bicubic, offset 0.1, not antialiased); `dinov2_antialias`: as
    DINOv2 with registers; `timm`: bicubic and antialiased; `bicubic`: not antialiased, as MAE and MMSegmentation."""

    def __post_init__(self) -> None:
        if min(self.std, default=0) <= 0:
            raise ValueError(f"std must be positive in every channel, not {self.std}")
        if "." in self.name:
            raise ValueError(f"name must be an architecture without a weights tag, not {self.name}")
        channels = self.in_chans
        if isinstance(channels, bool) or not isinstance(channels, int) or not 1 <= channels <= MAX_CHANNELS:
            raise ValueError(f"args.in_chans must be 1 … {MAX_CHANNELS}, not {channels}")
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(
                f"mean and std must have a number for each of the {channels} channels, not {len(self.mean)} and "
                f"{len(self.std)}"
            )

    @property
    def in_chans(self) -> int:
        """Number of channels of the images."""
        return self.args.get("in_chans", 3)


@dataclass(frozen=True)
class Backbone:
    """Network with timm's parameter names, and its origin."""

    config: BackboneConfig
    model: nn.Module
    source: str
    """User's argument, and what was detected in it."""
    origin: dict[str, str] = field(default_factory=dict)
    """Facts for the result file: network, method, epoch, file digest."""


class Tokens(NamedTuple):
    """Tokens of a batch after the final norm."""

    prefix: Tensor
    """Class and register tokens, [B, P, D]; P may be 0."""
    patches: Tensor
    """Patch tokens, row by row, [B, h·w, D]."""
    grid: tuple[int, int]
    """Rows h and columns w of patches."""

    @property
    def as_map(self) -> Tensor:
        """The patch tokens as a map, [B, D, h, w]."""
        return self.patches.transpose(1, 2).unflatten(2, self.grid)


class DenseMap(NamedTuple):
    """Map of one stage or block, and its class token."""

    map: Tensor
    """[B, C, h, w]."""
    token: Tensor | None
    """Class token of the same block, [B, C]; None where the network has none."""


@dataclass(frozen=True)
class LayerGroups:
    """Layers of a network for layer-wise learning rates, and the parameters without weight decay."""

    layers: dict[str, int]
    """Parameter name -> layer, 0 for the input's; layer l is trained with decay^(top − l) of the learning rate."""
    top: int
    """Layer of the heads on top of the network; 0 where the whole network is one layer."""
    undecayed: frozenset[str] = frozenset()
    """Tokens and position embeddings, which have no weight decay although they are not vectors."""

    def decays(self, name: str, parameter: Tensor) -> bool:
        """True for parameters with weight decay: not for vectors, tokens and position embeddings."""
        return parameter.ndim > 1 and name not in self.undecayed

    def optimiser_groups(
        self, module: nn.Module, prefix: str, lr: float, layer_decay: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        """Trained parameters of a `module` that holds the network at `prefix`, one group per rate and weight decay.

        Layer l of the network has the rate lr · layer_decay^(top − l), everything outside it the full rate (arXiv
        2106.08254, section 3.1; 2203.16527, appendix A.2).
        """
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            own = name.removeprefix(prefix) if prefix and name.startswith(prefix) else ""
            rate = lr * layer_decay ** (self.top - self.layers.get(own, self.top))
            groups.setdefault((rate, weight_decay if self.decays(own, parameter) else 0.0), []).append(parameter)
        return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


class Family(ABC):
    """Interface to one kind of network; stateless, as the network is an argument of each method.

    The networks themselves are plain modules with timm's parameter names.
    """

    title: str
    """The family in the plural, for error messages."""
    noun: str
    """One network of it with its article."""
    vector_name: str
    """Name of the default pooling, as shown for linear heads."""
    architecture: str
    """Construction of the network, for which other libraries' names and classes are known: `resnet`, `vit`, …"""
    dense: Dense
    """Maps for detection and segmentation: one per stage, one per block of patch tokens, or none."""
    trainable: bool = True
    """False for a fixed function without weights."""
    parity_tolerance: float = 0.0
    """Largest difference of another library's implementation, as a share of the output's range; 0: equal bits."""

    @abstractmethod
    def builds(self, name: str) -> bool:
        """True if `build` makes the architecture called `name`."""

    def names(self) -> list[str]:
        """Known architecture names, for suggestions; may be empty where names are open-ended."""
        return []

    @abstractmethod
    def matches(self, model: nn.Module) -> bool:
        """True if `model` is a network of this family."""

    @abstractmethod
    def build(self, config: BackboneConfig, drop_path: float) -> nn.Module:
        """Network with random weights (torch's global RNG) and without a classification head.

        `drop_path`: stochastic depth rate, 0 … 1. Raises `UserError` for arguments that don't fit the architecture.
        """

    @abstractmethod
    def poolings(self, model: Any) -> tuple[Pooling, ...]:
        """Poolings that `vector` can compute, the default first."""

    def resolve_pooling(self, model: Any, pooling: Pooling) -> Pooling:
        """The pooling that `auto` stands for, else `pooling` itself. Raises `UserError` if the model lacks it."""
        known = self.poolings(model)
        if pooling == "auto":
            return known[0]
        if pooling not in known:
            raise UserError(f"pooling {pooling} is not available: the backbone, {self.noun}, has {', '.join(known)}")
        return pooling

    @abstractmethod
    def width(self, model: Any, pooling: Pooling, side: int | None) -> int:
        """Length D of `vector` for images of `side`² pixels, on which only families without weights depend."""

    @abstractmethod
    def vector(self, model: Any, images: Tensor, pooling: Pooling) -> Tensor:
        """One vector per image: normalised floats [B, 3, H, W] -> [B, D]. Raises `UserError` for other poolings."""

    def blocks(self, model: Any) -> int:
        """Number of blocks whose tokens can be read; 1 where a network has nothing but its final vector."""
        return 1

    def head_vector(self, model: Any, images: Tensor, blocks: int, patches: bool) -> Tensor:
        """Input of linear heads: [B, 3, H, W] -> [B, D].

        The class tokens of the last `blocks` blocks after the final norm, earliest first (DINOv2, appendix B.3), then
        the last block's mean patch token if `patches`. Networks without tokens return `vector`.
        """
        return self.vector(model, images, "auto")

    def tokens(self, model: Any, images: Tensor) -> Tokens:
        """Tokens of the last block after the final norm; only where `dense` is `patches`."""
        raise NotImplementedError(f"{self.noun} has no tokens")

    def maps(self, model: Any, images: Tensor, taps: Sequence[int] | None = None) -> list[tuple[int, Tensor]]:
        """Stride in pixels and map [B, C, h, w] of each tap, in the order of `taps`; only where `dense` isn't `none`.

        `taps`: stages or blocks, counted from 0; None: all. Maps of blocks are taken before the final norm.
        """
        raise NotImplementedError(f"{self.noun} has no maps")

    def channels(self, model: Any) -> list[int]:
        """Number of channels C of each map that `maps` can return."""
        return []

    def dense_maps(self, model: Any, images: Tensor, taps: Sequence[int], norm: bool) -> list[DenseMap]:
        """Map and class token of each tap, counted from 0; only where `dense` isn't `none`.

        `norm`: after the network's final norm, where it has one. Raises `UserError` where a family can't apply it.
        """
        if self.dense == "stages" or not norm:
            return [DenseMap(found, None) for _, found in self.maps(model, images, taps)]
        if list(taps) != [len(self.channels(model)) - 1]:
            raise UserError(f"{self.noun} has the final norm after its last block only; set features.blocks=[-1]")
        tokens = self.tokens(model, images)
        return [DenseMap(tokens.as_map, tokens.prefix[:, 0] if tokens.prefix.shape[1] else None)]

    def layer_groups(self, model: nn.Module) -> LayerGroups:
        """Layers for layer-wise learning rates; by default one layer, for which there is no such decay."""
        return LayerGroups({name: 0 for name, _ in model.named_parameters()}, 0)

    def input_channels(self, model: nn.Module) -> int:
        """Number of channels of the images that the network takes: by default those of its first convolution, or 3."""
        return next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), 3)

    def input_multiple(self, model: Any) -> tuple[int, int]:
        """Height and width in pixels of which the sides of images must be multiples."""
        return 1, 1

    def image_side(self, model: Any) -> int | None:
        """Side in pixels of the images that the weights were made for; None where they don't depend on it."""
        return None


# Arguments that set only how the weights start.
_INITIALISATION_ARGS = {"zero_init_last"}


def architecture_args(config: BackboneConfig) -> dict[str, Any]:
    """Arguments that shape the network, without those that only set its initial weights."""
    return {key: value for key, value in config.args.items() if key not in _INITIALISATION_ARGS}


def describe(config: BackboneConfig) -> str:
    """One line for plans and tables, e.g. `resnet18(channels=[16, 32, 64, 128], stem=small)`."""
    extras = [f"{key}={value}" for key, value in config.args.items()]
    if config.stem != "imagenet":
        extras.append(f"stem={config.stem}")
    if config.pos_resize != "timm":
        extras.append(f"pos_resize={config.pos_resize}")
    return config.name + (f"({', '.join(extras)})" if extras else "")


def to_metadata(config: BackboneConfig) -> dict[str, Any]:
    """Plain values of the config for a file's header."""
    return dataclasses.asdict(config)
