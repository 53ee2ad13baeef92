"""Files of torchvision, open_clip and timm; their own classes compute the reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.kinds.base import IMAGES, SMALL, Kind, Made, build, randomised

LARGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def _torchvision(build_model: Callable[[], Any], read: Callable[[Any], Any], part: Any = "vector") -> Any:
    def make(folder: Path) -> Made:
        model = randomised(build_model())
        torch.save(model.state_dict(), folder / "weights.pth")
        with torch.inference_mode():
            return Made(str(folder / "weights.pth"), read(model), part, images=LARGE)

    return make


def _resnet(block: str, **args: Any) -> Callable[[], Any]:
    def build_model() -> Any:
        from torchvision.models import resnet

        return resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], num_classes=3, **args)

    return build_model


def _named(name: str, read: Callable[[Any], Any]) -> Kind:
    def build_model() -> Any:
        import torchvision

        return getattr(torchvision.models, name)(num_classes=3)

    return Kind(f"torchvision: {name}", "torchvision", _torchvision(build_model, read))


def _without_head(model: Any) -> Any:
    model.fc = torch.nn.Identity()
    return model(LARGE)


def _vit() -> Any:
    from torchvision.models import VisionTransformer

    return VisionTransformer(64, 16, 2, 1, 64, 128, num_classes=3)


def _vit_vector(model: Any) -> Any:
    model.heads = torch.nn.Identity()
    return model(LARGE)


def _convnext() -> Any:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths = (8, 16, 24, 32)
    blocks = [CNBlockConfig(a, b, 1) for a, b in zip(widths, (*widths[1:], None), strict=True)]
    return ConvNeXt(blocks, num_classes=3)


def _convnext_vector(model: Any) -> Any:
    return model.classifier[:2](model.avgpool(model.features(LARGE)))


def _swin() -> Any:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 12, [2, 1, 1, 1], [1, 2, 3, 4], [2, 2], num_classes=3)


def _swin_vector(model: Any) -> Any:
    return model.norm(model.features(LARGE)).mean(dim=(1, 2))


def _open_clip(quick: bool, side_file: bool, trunk: str = "") -> Any:
    def make(folder: Path) -> Made:
        import open_clip

        vision: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
        if trunk:
            vision = {"image_size": 32, "timm_model_name": trunk, "timm_pool": "", "timm_proj": "none"}
        text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
        dim = 512 if trunk else 16
        clip = randomised(open_clip.CLIP(dim, vision, text, quick_gelu=quick))
        save_file({k: v.clone() for k, v in clip.state_dict().items()}, folder / "open_clip_model.safetensors")
        if side_file:
            settings = {"model_cfg": {"vision_cfg": vision, "quick_gelu": quick}, "preprocess_cfg": {}}
            (folder / "open_clip_config.json").write_text(json.dumps(settings), encoding="utf-8")
        with torch.inference_mode():
            clip.visual.proj = None
            expected = clip.visual(IMAGES)
        arch = None if side_file else f"vit_base_patch32_clip{'_quickgelu' if quick else ''}_224(img_size=32, "
        arch = arch and arch + "patch_size=8, embed_dim=64, depth=2, num_heads=1)"
        return Made(str(folder if side_file else folder / "open_clip_model.safetensors"), expected, arch=arch)

    return make


def _timm(name: str, hub: bool, *, side: int = 32, named: bool = False, **args: Any) -> Kind:
    """A file of timm's weights, or with `hub` a folder with its config.json; `named`: --arch is needed."""

    def make(folder: Path) -> Made:
        model = build(name, **args)
        path = folder / "model.safetensors"
        save_file({k: v.clone().contiguous() for k, v in model.state_dict().items()}, path)
        if hub:
            settings = {
                "architecture": name,
                "model_args": args,
                "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
            }
            (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))
        with torch.inference_mode():
            expected = model(images)
        shown = ", ".join(f"{key}: {json.dumps(value)}" for key, value in args.items()).replace('"', "'")
        arch = f"{name}({shown.replace(': ', '=')})" if named else None
        return Made(str(folder if hub else path), expected, arch=arch, images=images)

    what = "folder" if hub else "file, with --arch" if named else "file"
    return Kind(f"timm: {name}, {what}", "timm", make)


_CNN = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
_SWIN = {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4]}
_SIGLIP = SMALL | {"mlp_ratio": 2}

KINDS = (
    Kind("torchvision: ResNet of basic blocks", "torchvision", _torchvision(_resnet("BasicBlock"), _without_head)),
    Kind("torchvision: ResNet of bottlenecks", "torchvision", _torchvision(_resnet("Bottleneck"), _without_head)),
    Kind(
        "torchvision: ResNeXt", "torchvision",
        _torchvision(_resnet("Bottleneck", groups=4, width_per_group=16), _without_head),
    ),
    Kind(
        "torchvision: wide ResNet", "torchvision",
        _torchvision(_resnet("Bottleneck", width_per_group=128), _without_head),
    ),
    _named("regnet_y_400mf", _without_head),
    Kind("torchvision: ViT", "torchvision", _torchvision(_vit, _vit_vector)),
    Kind("torchvision: ConvNeXt", "torchvision", _torchvision(_convnext, _convnext_vector)),
    Kind("torchvision: Swin", "torchvision", _torchvision(_swin, _swin_vector)),
    Kind("open_clip: ViT, folder", "open_clip", _open_clip(False, True)),
    Kind("open_clip: ViT with QuickGELU, folder", "open_clip", _open_clip(True, True)),
    Kind("open_clip: ViT, file with --arch", "open_clip", _open_clip(False, False)),
    Kind("open_clip: ViT with QuickGELU, file with --arch", "open_clip", _open_clip(True, False)),
    _timm("resnet18", False, channels=[8, 16, 24, 32]),
    _timm("resnet50d", False, named=True, channels=[8, 8, 8, 8]),
    _timm("resnetaa50", True, channels=[8, 8, 8, 8]),
    _timm("vit_small_patch16_224", False, **SMALL | {"embed_dim": 64, "num_heads": 1}),
    _timm("vit_small_patch16_224", True, **SMALL),
    _timm("vit_base_patch16_siglip_224", True, **_SIGLIP),
    _timm("vit_base_patch32_clip_quickgelu_224", True, **SMALL),
    _timm("vit_small_patch14_reg4_dinov2", True, **SMALL),
    _timm("deit3_small_patch16_224", True, **SMALL),
    _timm("deit_small_distilled_patch16_224", True, **SMALL),
    _timm("beit_base_patch16_224", False, **SMALL),
    _timm("beitv2_base_patch16_224", True, **SMALL),
    _timm("eva02_tiny_patch14_224", True, **SMALL),
    _timm("vit_small_patch16_dinov3", False, **SMALL | {"embed_dim": 64, "num_heads": 1}),
    _timm("vit_small_patch16_dinov3_qkvb", True, **SMALL),
    _timm("vit_pe_core_tiny_patch16_384", True, **SMALL),
    _timm("convnext_tiny", False, **_CNN),
    _timm("convnextv2_tiny", False, **_CNN),
    _timm("convnext_atto", True, **_CNN),
    _timm("swin_tiny_patch4_window7_224", True, **_SWIN | {"img_size": 64, "window_size": 2}, side=64),
    _timm("swinv2_tiny_window8_256", True, **_SWIN | {"img_size": 64, "window_size": 2}, side=64),
    _timm("test_efficientnet", True, side=64),
    _timm("test_nfnet", True, side=64),
    _timm("test_byobnet", True, side=64),
    _timm("test_maxvit", True, side=160),
    _timm("hiera_tiny_224", True, embed_dim=24, num_heads=1, stages=[1, 1, 1, 1], side=224),
    _timm("regnety_002", True, side=64),
    _timm("mobilenetv3_small_050", True, side=64),
    _timm("xcit_nano_12_p16_224", True, embed_dim=32, depth=1, num_heads=2, side=224),
)  # fmt: skip
