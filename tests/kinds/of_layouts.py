"""Files in the layouts of the projects' own training code, around small networks of the same classes as theirs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.kinds.base import IMAGES, SMALL, Kind, Made, build, randomised

State = dict[str, Tensor]
VIT = {"embed_dim": 64, "depth": 2, "num_heads": 1, "img_size": 32, "patch_size": 8}
RESNET = {"channels": [8, 16, 24, 32]}
LARGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def below(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": tensor.clone() for name, tensor in state.items()}


def head(prefix: str) -> State:
    return {f"{prefix}.0.weight": torch.randn(4, 4), f"{prefix}.0.bias": torch.randn(4)}


def renamed(state: Mapping[str, Tensor], *rules: tuple[str, str]) -> State:
    found = {}
    for name, tensor in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        found[name] = tensor.clone()
    return found


def layout(
    name: str, model: tuple[str, dict[str, Any]], wrap: Callable[[State, State], Any], network: Any = "online",
    part: Any = "vector", images: Tensor = IMAGES, file: str = "weights.pth", **given: Any,
) -> Kind:  # fmt: skip
    """`wrap` (state of the asked network, state of another) -> the document that the project saves."""

    def make(folder: Path) -> Made:
        asked, other = build(model[0], 0, **model[1]), build(model[0], 1, **model[1])
        document = wrap(dict(asked.state_dict()), dict(other.state_dict()))
        torch.save(document, folder / file)
        with torch.inference_mode():
            tokens = asked.forward_features(images)
            if part == "cls":
                expected = tokens[:, 0]
            elif part == "patches":
                expected = tokens[:, asked.num_prefix_tokens :].mean(dim=1)
            else:
                expected = tokens if part == "tokens" else asked(images)
        return Made(str(folder / file), expected, part, network, images=images, **given)

    return Kind(name, "timm", make)


def _dinov2(state: State) -> State:
    return state | {"mask_token": torch.randn(1, 64)}


def _registers(state: State) -> State:
    """DINOv2's own tensors: the class token has a position of its own."""
    own = renamed(state, ("reg_token", "register_tokens"))
    position = torch.randn(1, 1, 64)
    own["cls_token"] = own["cls_token"] - position
    own["pos_embed"] = torch.cat([position, own["pos_embed"]], dim=1)
    return _dinov2(own)


def _chunks(state: State) -> State:
    return renamed(_dinov2(state), (r"blocks\.(\d+)\.", r"blocks.0.\1."))


def _swiglu(state: State) -> State:
    return renamed(_dinov2(state), (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3"))


def _dinov3(state: State) -> State:
    own = renamed(state, (r"gamma_(\d)", r"ls\1.gamma"), ("reg_token", "storage_tokens"))
    for block in range(2):
        query, value = (own.pop(f"blocks.{block}.attn.{part}_bias") for part in "qv")
        nothing = torch.full_like(query, torch.nan)
        own[f"blocks.{block}.attn.qkv.bias"] = torch.cat([query, nothing, value])
        own[f"blocks.{block}.attn.qkv.bias_mask"] = torch.cat([torch.ones(64), torch.zeros(64), torch.ones(64)])
    return own | {"rope_embed.periods": torch.ones(16), "mask_token": torch.randn(1, 64)}


def _gated(state: State) -> State:
    return renamed(_dinov3(state), (r"mlp\.fc1_g", "mlp.w1"), (r"mlp\.fc1_x", "mlp.w2"), (r"mlp\.fc2", "mlp.w3"))


def _convnext(state: State) -> State:
    own = renamed(
        state,
        (r"^stem\.", "downsample_layers.0."),
        (r"stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"stages\.(\d)\.blocks\.", r"stages.\1."),
        ("conv_dw", "dwconv"),
        (r"mlp\.fc", "pwconv"),
        (r"mlp\.grn\.weight", "grn.gamma"),
        (r"mlp\.grn\.bias", "grn.beta"),
        (r"^head\.norm", "norm"),
    )
    return {key: tensor.reshape(1, 1, 1, -1) if "grn" in key else tensor for key, tensor in own.items()}


def _swin(state: State) -> State:
    own = {}
    for name, tensor in state.items():
        if match := re.match(r"layers\.(\d)\.downsample\.(.*)", name):
            name = f"layers.{int(match[1]) - 1}.downsample.{match[2]}"
        own[name] = tensor
    return own | {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(4, 4, dtype=torch.long)}


def _detectron2(state: State) -> State:
    return renamed(
        state, (r"^conv1", "stem.conv1"), (r"^bn1", "stem.conv1.norm"),
        (r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}"), (r"\.bn(\d)", r".conv\1.norm"),
        (r"downsample\.0", "shortcut"), (r"downsample\.1", "shortcut.norm"),
    )  # type: ignore[arg-type]  # fmt: skip


def _conv_stem(folder: Path) -> Made:
    """timm's ViT with the stem written out here; 64 wide, so that the heads are those of any width / 64."""
    model = build("vit_small_patch16_224", **VIT | {"patch_size": 16, "img_size": 64})
    parts: list[Any] = []
    for into, out in ((3, 8), (8, 16), (16, 32), (32, 64)):
        parts += [torch.nn.Conv2d(into, out, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(out), torch.nn.ReLU()]
    model.patch_embed.proj = torch.nn.Sequential(*parts, torch.nn.Conv2d(64, 64, 1))
    model = randomised(model)
    torch.save({"state_dict": below("module.base_encoder.", model.state_dict())}, folder / "weights.pth")
    with torch.inference_mode():
        return Made(str(folder / "weights.pth"), model(LARGE), images=LARGE)


_V, _R = ("vit_small_patch16_224", VIT), ("resnet18", RESNET)
SCALED_VIT = ("vit_small_patch16_224", VIT | {"init_values": 0.1})
_REG = ("vit_small_patch14_reg4_dinov2", VIT)
_GIANT = ("vit_giant_patch14_dinov2", VIT | {"mlp_ratio": 4})
_GAP = ("vit_small_patch16_224", VIT | {"class_token": False, "global_pool": "avg", "fc_norm": False})
_FINE = ("vit_small_patch16_224", VIT | {"global_pool": "avg"})
_NO_NORM = ("vit_small_patch16_224", VIT | {"final_norm": False})
_DINOV3 = ("vit_small_patch16_dinov3_qkvb", VIT | {"global_pool": "token"})
_GATED = ("vit_small_plus_patch16_dinov3_qkvb", VIT | {"global_pool": "token"})
CONVNEXT = ("convnext_tiny", {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]})
_CONVNEXT2 = ("convnextv2_tiny", {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]})
_VICREGL = ("convnextv2_tiny", _CONVNEXT2[1] | {"use_grn": False, "head_norm_first": True})
SWIN = (
    "swin_tiny_patch4_window7_224",
    {"embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4], "img_size": 64, "window_size": 2},
)
BEIT = ("beit_base_patch16_224", SMALL)
_BEIT_PRETRAINED = ("beit_base_patch16_224", SMALL | {"global_pool": "token"})

KINDS = (
    layout("MULAN: checkpoint.pth", _R, lambda s, o: {
        "online_model": below("module.backbone.", s) | head("module.projector"),
        "target_model": below("module.backbone.", o), "optimizer": {"state": {}}, "epoch": 3}),
    layout("MULAN: checkpoint.pth, target", _R, lambda s, o: {
        "online_model": below("module.backbone.", o), "target_model": below("module.backbone.", s)}, "target"),
    layout("MULAN: ViT checkpoint.pth", _V, lambda s, o: {
        "online_model": below("module.backbone.", s), "target_model": below("module.backbone.", o)}),
    layout("MULAN: backbone.pth", _R, lambda s, o: s),
    layout("DINO: checkpoint.pth, student", _V, lambda s, o: {
        "student": below("module.backbone.", s) | head("module.head.mlp"), "teacher": below("backbone.", o)}),
    layout("DINO: checkpoint.pth, teacher", _V, lambda s, o: {
        "student": below("module.backbone.", o), "teacher": below("backbone.", s) | head("head.mlp")}, "target"),
    layout("DINO: released backbone", _V, lambda s, o: s),
    layout("DINO: ResNet checkpoint.pth, teacher", _R, lambda s, o: {
        "student": below("module.backbone.", o), "teacher": below("backbone.", s)}, "target"),
    layout("iBOT: checkpoint.pth, student", _V, lambda s, o: {
        "student": below("module.backbone.", s) | {"module.backbone.masked_embed": torch.randn(1, 64)},
        "teacher": below("backbone.", o)}),
    layout("iBOT: checkpoint.pth, teacher", _V, lambda s, o: {
        "student": below("module.backbone.", o), "teacher": below("backbone.", s)}, "target"),
    layout("iBOT: checkpoint_student.pth", _V, lambda s, o: {"state_dict": s | {"masked_embed": torch.randn(1, 64)}}),
    layout("DINOv2: released", SCALED_VIT, lambda s, o: _dinov2(s), part="tokens"),
    layout("DINOv2: released, with registers", _REG, lambda s, o: _registers(s), part="tokens"),
    layout("DINOv2: released, SwiGLU", _GIANT, lambda s, o: _swiglu(s), part="tokens"),
    layout("DINOv2: teacher_checkpoint.pth", SCALED_VIT, lambda s, o: {
        "teacher": below("backbone.", _dinov2(s)) | head("dino_head.mlp")}, "target", "tokens"),
    layout("DINOv2: teacher_checkpoint.pth, in chunks", SCALED_VIT, lambda s, o: {
        "teacher": below("backbone.", _chunks(s)) | head("dino_head.mlp")}, "target", "tokens"),
    layout("DINOv3: released ViT", _DINOV3, lambda s, o: _dinov3(s)),
    layout("DINOv3: released ViT with gated MLPs", _GATED, lambda s, o: _gated(s)),
    layout("DINOv3: teacher_checkpoint.pth", _DINOV3, lambda s, o: {
        "teacher": below("backbone.", _dinov3(s))}, "target"),
    layout("DINOv3: released ConvNeXt", CONVNEXT, lambda s, o: _convnext(s)),
    layout("MAE: checkpoint with decoder", _V, lambda s, o: {
        "model": s | {"mask_token": torch.randn(1, 1, 8), "decoder_pos_embed": torch.randn(1, 17, 8)}, "epoch": 3}),
    layout("MAE: released encoder", _V, lambda s, o: {"model": s}),
    layout("MAE: fine-tuned", _FINE, lambda s, o: {"model": s | {"head.weight": torch.randn(3, 64)}}),
    layout("MoCo v3: ViT, online", _V, lambda s, o: {
        "state_dict": below("module.base_encoder.", s) | below("module.momentum_encoder.", o)
        | head("module.predictor")}),
    layout("MoCo v3: ViT, momentum", _V, lambda s, o: {
        "state_dict": below("module.base_encoder.", o) | below("module.momentum_encoder.", s)}, "target"),
    Kind("MoCo v3: ViT with a stem of convolutions", "timm and torch", _conv_stem),
    layout("MoCo v3: ResNet", _R, lambda s, o: {
        "state_dict": below("module.base_encoder.", s) | below("module.momentum_encoder.", o)}),
    layout("MoCo v2: query encoder", _R, lambda s, o: {
        "state_dict": below("module.encoder_q.", s) | below("module.encoder_k.", o)
        | {"module.queue": torch.randn(4, 4)}}),
    layout("MoCo v2: key encoder", _R, lambda s, o: {
        "state_dict": below("module.encoder_q.", o) | below("module.encoder_k.", s)}, "target"),
    layout("DenseCL: checkpoint", _R, lambda s, o: {
        "state_dict": below("encoder_q.0.", s) | below("encoder_k.0.", o) | head("encoder_q.1"), "meta": {}}),
    layout("SimSiam: checkpoint", _R, lambda s, o: {
        "state_dict": below("module.encoder.", s) | head("module.encoder.fc") | head("module.predictor")}),
    layout("SwAV: checkpoint", _R, lambda s, o: {
        "state_dict": below("module.", s) | head("module.projection_head")
        | {"module.prototypes.weight": torch.randn(4, 4)}}),
    layout("SwAV: ResNet twice as wide", ("resnet18", {"channels": [16, 16, 24, 32]}), lambda s, o: s | {
        "conv1.weight": s["conv1.weight"]}),
    layout("Barlow Twins: checkpoint.pth", _R, lambda s, o: {
        "model": below("module.backbone.", s) | head("module.projector"), "epoch": 1}),
    layout("VICReg: model.pth", _R, lambda s, o: {"model": below("module.backbone.", s) | head("module.projector")}),
    layout("VICRegL: ResNet", _R, lambda s, o: {
        "model": below("module.backbone.", s) | head("module.projector") | head("module.maps_projector")
        | head("module.classifier")}),
    layout("VICRegL: ConvNeXt", _VICREGL, lambda s, o: renamed(_convnext(s), ("^norm_pre", "norm"))),
    layout("PixPro: online", _R, lambda s, o: {
        "model": below("module.encoder.", s) | below("module.encoder_k.", o) | head("module.projector_k")
        | head("module.value_transform")}),
    layout("PixPro: momentum", _R, lambda s, o: {
        "model": below("module.encoder.", o) | below("module.encoder_k.", s) | head("module.projector_k")}, "target"),
    layout("SlotCon: online", _R, lambda s, o: {
        "model": below("module.encoder_q.", s) | below("module.encoder_k.", o)}),
    layout("I-JEPA: online", _GAP, lambda s, o: {
        "encoder": below("module.", s), "predictor": head("module.predictor"), "target_encoder": below("module.", o)}),
    layout("I-JEPA: target", _GAP, lambda s, o: {
        "encoder": below("module.", o), "predictor": head("module.predictor"), "target_encoder": below("module.", s)},
        "target"),
    layout("MSN: target", _V, lambda s, o: {
        "encoder": below("module.", o) | head("module.fc.fc1"), "target_encoder": below("module.", s),
        "prototypes": torch.randn(4, 4)}, "target"),
    layout("SelfPatch: released, no final norm", _NO_NORM, lambda s, o: s, part="patches"),
    layout("solo-learn: Barlow Twins", _R, lambda s, o: {
        "state_dict": below("backbone.", s) | head("projector") | head("classifier")}),
    layout("solo-learn: BYOL, momentum", _R, lambda s, o: {
        "state_dict": below("backbone.", o) | below("momentum_backbone.", s) | head("momentum_projector")}, "target"),
    layout("lightly: BYOL", _R, lambda s, o: {
        "state_dict": below("backbone.", s) | below("backbone_momentum.", o) | head("projection_head.layers")}),
    layout("lightly: DINO, teacher", _R, lambda s, o: {
        "state_dict": below("student_backbone.", o) | below("teacher_backbone.", s) | head("student_head.layers")},
        "target"),
    layout("lightly: two ViTs, student", _V, lambda s, o: {
        "state_dict": below("student_backbone.vit.", s) | below("teacher_backbone.vit.", o)
        | head("student_head.layers")}),
    layout("lightly: two ViTs, teacher", _V, lambda s, o: {
        "state_dict": below("student_backbone.vit.", o) | below("teacher_backbone.vit.", s)
        | head("student_head.layers")}, "target"),
    layout("lightly-train: exported_last.pt", _V, lambda s, o: s),
    layout("Lightning: model.*", _R, lambda s, o: {"state_dict": below("model.", s), "epoch": 2}),
    layout("Lightning: net.* compiled", _R, lambda s, o: {"state_dict": below("net._orig_mod.", s)}),
    layout("stable-pretraining: backbone.*", _V, lambda s, o: {"state_dict": below("backbone.", s)}),
    layout("PyTorch's ImageNet example: model_best.pth.tar", _R, lambda s, o: {
        "state_dict": below("module.", s) | {"module.fc.weight": torch.randn(3, 32)}, "best_acc1": torch.tensor(70.1),
        "arch": "resnet18"}),
    layout("timm: training script with averaged weights", _R, lambda s, o: {
        "state_dict": o, "state_dict_ema": s, "arch": "resnet18"}, "target"),
    layout("MMPretrain: BYOL, target", _R, lambda s, o: {
        "meta": {}, "state_dict": below("backbone.", o) | below("target_net.0.", s)}, "target"),
    layout("Detectron2: converted ResNet", _R, lambda s, o: {"model": _detectron2(s), "matching_heuristics": True}),
    layout("VISSL: checkpoint", _R, lambda s, o: {"classy_state_dict": {"base_model": {"model": {
        "trunk": below("_feature_blocks.", s), "heads": {}}}}}),
    layout("Leopart: model.*", _V, lambda s, o: {"state_dict": below("model.", s)}),
    layout("Swin: official", SWIN, lambda s, o: {"model": _swin(s)}, images=LARGE),
    layout("Swin: EsViT, teacher", SWIN, lambda s, o: {
        "student": below("module.backbone.", _swin(o)), "teacher": below("backbone.", _swin(s))}, "target",
        images=LARGE),
    layout("ConvNeXt: official", CONVNEXT, lambda s, o: {"model": _convnext(s)}),
    layout("ConvNeXt V2: official", _CONVNEXT2, lambda s, o: {"model": _convnext(s)}),
    layout("BEiT: fine-tuned", BEIT, lambda s, o: {"model": s | {"head.weight": torch.randn(3, 48)}}),
    layout("BEiT: pre-trained", _BEIT_PRETRAINED, lambda s, o: {
        "model": s | {"mask_token": torch.randn(1, 1, 48), "lm_head.weight": torch.randn(3, 48)}}),
)  # fmt: skip
