"""timm's own networks inside MMSegmentation: equal maps, every head, layer decay, frozen, and runs of the command."""

# ruff: noqa: E402, the packages are made importable first

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)

from converters.engines.openmmlab import import_mmseg

import_mmseg()

from mmengine.optim import build_optim_wrapper

import evaluate.segmentation.engine.training_extensions  # noqa: F401, registers LayerGroupDecay
from converters.open import open_backbone
from core.backbones import family_of
from core.config import load_config
from core.distributed import Processes
from core.errors import UserError
from evaluate.common.context import RunContext
from evaluate.common.protocol import protocol_file
from evaluate.segmentation.data.layouts import list_split
from evaluate.segmentation.engine.engine_settings import engine_settings
from evaluate.segmentation.model.segmentor import build_segmentor
from evaluate.segmentation.protocol import SegmentConfig
from tests.evaluate.segmentation.tiny_segmentation import (
    SCRIPT,
    arguments,
    confusion,
    equal_scores,
    result,
    run,
    scenes,
    small_place,
    steps,
    trained,
)
from tests.torchrun import torchrun

ALONE = RunContext(Processes(0, 1, torch.device("cpu")), workers=0, seed=0)
VIT14 = "timm:vit_tiny_patch16_224(depth=4, embed_dim=48, patch_size=14, img_size=56, reg_tokens=4, init_values=1.0)"
STAGES = "timm:resnet18d(channels=[8,16,24,32], stem_width=8)"
CONVNEXT = "timm:convnext_atto(dims=[8,16,24,32], depths=[1,1,2,1])"
SWIN = "timm:swin_tiny_patch4_window7_224(embed_dim=16, depths=[1,1,2,1], num_heads=[1,2,2,4])"
DINOV2 = "timm:vit_base_patch14_dinov2(embed_dim=48, depth=4, num_heads=3, img_size=56)"
FOUR_CHANNELS = "timm:convnext_atto(dims=[8,8,8,8], in_chans=4, mean=[.5,.5,.5,.5], std=[.5,.5,.5,.5])"
DINOV3 = "timm:vit_small_patch16_dinov3(embed_dim=48, depth=4, num_heads=3)"
SMALL = (
    "crop.size=56", "head.channels=8", "inference.mode=whole", "network.taps=[0,1,2,3]", "network.class_token=true",
    "network.final_norm=false", "network.final_norm_on=last",
)  # fmt: skip


def build(protocol: str, ckpt: str, *overrides: str) -> tuple[Any, str, dict[str, Any]]:
    backbone = open_backbone(ckpt)
    named = f"network.backbone={backbone.config.name}"
    config = load_config(SegmentConfig, protocol_file(protocol, "segmentation"), [*SMALL, named, *overrides])
    names = tuple(map(str, range(config.data.classes)))
    settings = engine_settings(config, backbone, Path("/d"), names, ALONE, Path("/w"))
    model, report = build_segmentor(config, settings["model"], backbone, ALONE)
    return model, report, settings


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    yield from small_place(tmp_path_factory)


@pytest.mark.parametrize(("ckpt", "side"), [(VIT14, 56), (STAGES, 64), (CONVNEXT, 64), (SWIN, 64), (DINOV3, 64)])
def test_the_wrapper_gives_timms_maps(ckpt: str, side: int) -> None:
    model, report, _ = build("ade20k_linear_vit_s", ckpt, "network.drop_path=0", f"crop.size={side}")
    backbone = open_backbone(ckpt).model.eval()
    assert f"{len(backbone.state_dict())} of {len(backbone.state_dict())} tensors loaded" in report
    images = torch.randn(2, 3, side, side * 3 // 2)
    with torch.inference_mode():
        expected = [x for _, x in family_of(backbone).maps(backbone, images, (0, 1, 2, 3))]
        found = model.eval().backbone(images)
    assert [float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)] == [0.0] * 4


def test_maps_of_an_image_that_patches_do_not_divide_cover_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that holds the x of the centres of its 14-pixel cells does so for the cells that share 62 pixels evenly."""
    model, _, _ = build("ade20k_linear_vit_s", VIT14, "network.drop_path=0")
    centres = ((torch.arange(5.0) + 0.5) * 14).expand(1, 1, 5, 5)
    monkeypatch.setattr("evaluate.segmentation.model.timm_network.image_maps", lambda *_: [(14, centres)])
    found = model.backbone(torch.zeros(1, 3, 60, 62))[0]
    assert found.shape[-2:] == (5, 5)
    torch.testing.assert_close(found[0, 0, 2, 1:], (torch.arange(1.0, 5.0) + 0.5) * 62 / 5, rtol=0, atol=1e-4)


@pytest.mark.parametrize("ckpt", [VIT14, CONVNEXT])
@pytest.mark.parametrize(
    "protocol", ["ade20k_upernet_vit_s_160k", "ade20k_semfpn_vit_s_40k", "voc_fcn_r50_20k_densecl"]
)
def test_every_head_trains_on_every_kind_of_map(ckpt: str, protocol: str) -> None:
    given = [] if "fcn" not in protocol else ["network.output_stride=32"]
    model, _, _ = build(protocol, ckpt, "optim.layer_decay=null", *given)
    model.train()
    images = torch.randn(2, 3, 56, 56)
    logits = model(images)
    assert torch.isfinite(logits).all()
    (logits.square().mean() + sum(x.square().mean() for x in model.backbone(images))).backward()
    without = [name for name, p in model.backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_the_final_norm_reaches_the_taps_that_the_protocol_names() -> None:
    vit = open_backbone(VIT14).model.eval()
    images = torch.randn(1, 3, 56, 56)
    for on, normed in (("last", (3,)), ("every", (0, 1, 2, 3))):
        overrides = ("network.final_norm=true", f"network.final_norm_on={on}", "network.drop_path=0")
        model, _, _ = build("ade20k_linear_vit_s", VIT14, *overrides)
        with torch.inference_mode():
            found = model.eval().backbone(images)
            raw, after = (
                vit.forward_intermediates(images, indices=[0, 1, 2, 3], norm=norm, intermediates_only=True)  # type: ignore[operator]
                for norm in (False, True)
            )
        for tap, x in enumerate(found):
            torch.testing.assert_close(x, (after if tap in normed else raw)[tap], rtol=0, atol=1e-5)


def test_rates_follow_the_backbones_own_layers() -> None:
    swin, _, settings = build("ade20k_upernet_vit_s_160k", SWIN, "optim.layer_decay=0.5", "optim.lr=1")
    groups = build_optim_wrapper(swin, settings["optim_wrapper"]).optimizer.param_groups
    rates = {id(p): (group["lr"], group["weight_decay"] > 0) for group in groups for p in group["params"]}
    assert rates[id(swin.backbone.network.patch_embed.proj.weight)] == (0.5**6, True)
    assert rates[id(swin.backbone.network.layers[3].blocks[0].attn.qkv.weight)] == (0.5, True)
    assert rates[id(swin.backbone.network.layers[3].blocks[0].attn.relative_position_bias_table)] == (0.5, False)
    model, _, settings = build("ade20k_upernet_vit_s_160k", VIT14, "optim.layer_decay=0.5", "optim.lr=1")
    groups = build_optim_wrapper(model, settings["optim_wrapper"]).optimizer.param_groups
    rates = {id(p): (group["lr"], group["weight_decay"] > 0) for group in groups for p in group["params"]}
    vit = model.backbone.network
    assert rates[id(vit.patch_embed.proj.weight)] == (0.5**5, True)
    assert rates[id(vit.pos_embed)] == (0.5**5, False)
    assert rates[id(vit.reg_token)] == (0.5**5, False)
    assert rates[id(vit.blocks[0].attn.qkv.weight)] == (0.5**4, True)
    assert rates[id(vit.blocks[3].ls1.gamma)] == (0.5, False)
    assert rates[id(model.decode_head.conv_seg.weight)] == (1, True)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(rates) == len(trained) == sum(len(group["params"]) for group in groups)


@pytest.mark.parametrize("ckpt", [VIT14, STAGES])
def test_a_frozen_wrapped_backbone_stays_as_it_is(ckpt: str) -> None:
    model, report, _ = build("ade20k_linear_vit_s", ckpt, "network.frozen=true", "network.drop_path=0")
    assert "frozen" in report
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    model.train()
    model(torch.randn(2, 3, 56, 56)).square().mean().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("ckpt", "overrides", "named"),
    [
        (VIT14, ["crop.size=64"], r"crop\.size to 56 or 70"),
        (VIT14, ["network.taps=[1,2,3,4]"], r"network\.taps.*\b4\b"),
        (STAGES, ["network.output_stride=8"], r"network\.output_stride"),
        (STAGES, ["network.final_norm=true"], r"network\.final_norm"),
        (STAGES, ["optim.layer_decay=0.9"], r"optim\.layer_decay"),
        (VIT14, ["network.backbone=resnet50"], r"network\.backbone=vit_tiny"),
        ("timm:hiera_tiny_224", ["crop.size=224"], r"crop\.size=224 inference\.mode=slide"),
        (
            FOUR_CHANNELS,
            [],
            r"4 channels.*RGB",
        ),
    ],
)
def test_what_does_not_fit_is_named(ckpt: str, overrides: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        build("ade20k_upernet_vit_s_160k", ckpt, "optim.layer_decay=null", *overrides)


def test_the_same_network_under_another_name_is_the_protocols() -> None:
    backbone = open_backbone("timm:vit_tiny_patch16_224(img_size=64)")
    config = load_config(SegmentConfig, protocol_file("ade20k_linear_vit_s", "segmentation"),
                         ["network.backbone=vit_tiny_patch16_384", "crop.size=64", "inference.stride=64"])  # fmt: skip
    assert engine_settings(config, backbone, Path("/d"), ("a",) * 150, ALONE, Path("/w"))["model"]["backbone"]


@pytest.mark.parametrize(("ckpt", "size"), [(VIT14, 28), (SWIN, 32)])
def test_the_command_trains_a_wrapped_network_and_resumes(
    place: Path, tmp_path: Path, ckpt: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = ckpt.removeprefix("timm:").partition("(")[0]
    given = arguments(
        place, tmp_path, f"network.backbone={name}", "network.taps=[0,1,2,3]", f"crop.size={size}", ckpt=ckpt
    )
    from evaluate.segmentation.engine.training_extensions import ProgressHook

    after = ProgressHook.after_train_iter

    def killed(self: Any, runner: Any, *rest: Any, **more: Any) -> None:
        after(self, runner, *rest, **more)
        if runner.iter == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressHook, "after_train_iter", killed)
    with pytest.raises(KeyboardInterrupt):
        run(*given)
    monkeypatch.setattr(ProgressHook, "after_train_iter", after)
    assert "iteration 4" in run(*given)
    assert steps(tmp_path) == [2, 4, 6]
    assert "timm's network" in result(tmp_path)["settings"]["loaded"]
    kept = torch.load(tmp_path / "segmentor.pth", weights_only=True)["state_dict"]
    assert {f"backbone.network.{key}" for key in open_backbone(ckpt).model.state_dict()} <= kept.keys()


def test_the_command_freezes_on_request(place: Path, tmp_path: Path) -> None:
    printed = run(
        *arguments(place, tmp_path, "network.backbone=resnet18d", "schedule.iterations=3", "--frozen", ckpt=STAGES)
    )
    assert "(frozen)" in printed
    assert "network.frozen=true" in result(tmp_path)["protocol"]
    kept = torch.load(tmp_path / "segmentor.pth", weights_only=True)["state_dict"]
    for key, tensor in open_backbone(STAGES).model.state_dict().items():
        assert torch.equal(kept[f"backbone.network.{key}"], tensor)


@pytest.mark.parametrize(
    ("name", "tiny", "optim", "test"),
    [
        ("ade20k_upernet_swin_t_160k", SWIN, (6e-5, 0.01, None, 0.3), (512, "whole", 341)),
        ("ade20k_upernet_convnext_t_160k", CONVNEXT, (1e-4, 0.05, 0.966, 0.4), (512, "slide", 341)),
        ("ade20k_upernet_dinov2_vit_b_160k", DINOV2, (8e-5, 0.05, 0.65, 0.1), (518, "slide", 341)),
    ],
)  # fmt: skip
def test_a_protocols_values(name: str, tiny: str, optim: tuple[Any, ...], test: tuple[Any, ...]) -> None:
    """Transcribed from the configs that the protocols' headers name; a narrow network of the same kind stands in."""
    backbone = open_backbone(tiny)
    given = [
        f"network.backbone={backbone.config.name}",
        "network.taps=[0,1,2,3]",
        "crop.size=56",
        "inference.stride=56",
    ]
    config = load_config(SegmentConfig, protocol_file(name, "segmentation"))
    assert (config.optim.lr, config.optim.weight_decay, config.optim.layer_decay, config.network.drop_path) == optim
    schedule = config.schedule
    assert (config.batch, schedule.iterations, schedule.warmup, schedule.power, schedule.min_lr, schedule.steps) == (
        16, 160_000, 1500, 1.0, 0.0, (),
    )  # fmt: skip
    assert (schedule.processes, schedule.decay_under_warmup) == (8, True)
    narrow = load_config(SegmentConfig, protocol_file(name, "segmentation"), given)
    model = engine_settings(narrow, backbone, Path("/d"), ("a",) * 150, ALONE, Path("/w"))["model"]
    assert model["backbone"]["type"] == "TimmNetwork"
    assert model["decode_head"]["type"] == "UPerHead"
    assert (model["auxiliary_head"]["channels"], model["auxiliary_head"]["in_index"]) == (256, 2)
    assert (config.crop.size, config.inference.mode, config.inference.stride) == test
    assert model["test_cfg"]["mode"] == config.inference.mode


def test_a_new_norm_stands_behind_each_map() -> None:
    model, _, _ = build("ade20k_upernet_swin_t_160k", SWIN, "network.map_norm=true", "crop.size=64")
    with torch.inference_mode():
        for x in model.eval().backbone(torch.randn(1, 3, 64, 64)):
            assert float(x.mean(dim=1).abs().max()) < 1e-5
    assert [p.requires_grad for p in model.backbone.new_norms.parameters()] == [True] * 8
    for ckpt in (VIT14, "timm:resnet18(channels=[8,16,32,64])"):
        with pytest.raises(UserError, match=r"network\.map_norm"):
            build("ade20k_upernet_swin_t_160k", ckpt, "network.map_norm=true")


@pytest.mark.parametrize(("ckpt", "size"), [(VIT14, 28), (SWIN, 32)])
def test_two_processes_share_a_wrapped_network(place: Path, tmp_path: Path, ckpt: str, size: int) -> None:
    name = ckpt.removeprefix("timm:").partition("(")[0]
    given = [f"network.backbone={name}", "network.taps=[0,1,2,3]", f"crop.size={size}"]
    done = torchrun(SCRIPT, *arguments(place, tmp_path, *given, ckpt=ckpt))
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert steps(tmp_path) == [2, 4, 6]
    pairs = list_split(scenes(place), "scenes", "val").pairs
    assert len(pairs) == 7  # an odd number: the ranks are padded to eight
    matrix = confusion(trained(tmp_path, ckpt), pairs, 9, reduce_zero_label=True)
    equal_scores(result(tmp_path)["metrics"], matrix)


@pytest.mark.parametrize("ckpt", [CONVNEXT, DINOV3])
def test_a_protocol_of_any_backbone_takes_whatever_has_maps(ckpt: str) -> None:
    backbone = open_backbone(ckpt)
    given = ["network.backbone=any", "network.taps=[0,1,2,3]", "head={kind: fcn, channels: 8, every_map: true}"]
    config = load_config(SegmentConfig, protocol_file("scenes_fcn_r18_400it", "segmentation"), given)
    model = engine_settings(config, backbone, Path("/d"), ("a",) * 9, ALONE, Path("/w"))["model"]
    assert model["backbone"]["type"] == "TimmNetwork"
    widths = model["decode_head"]["in_channels"]
    assert widths == family_of(backbone.model).channels(backbone.model)[-4:]
