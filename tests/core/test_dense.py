"""Maps of every family: against the networks' own layers, and what is refused."""

from __future__ import annotations

import pytest
import torch

from core.backbones import BackboneConfig, build_backbone, fixed_backbone
from core.dense import check_blocks, concatenated_features, dense_features, has_class_token, stage_of_stride
from core.errors import UserError

TINY = {"depth": 3, "embed_dim": 24, "num_heads": 2, "img_size": 32, "patch_size": 8}
IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vit() -> torch.nn.Module:
    torch.manual_seed(0)
    model = build_backbone(BackboneConfig("vit_tiny_patch16_224", args=TINY)).eval()
    torch.nn.init.normal_(model.norm.weight)
    torch.nn.init.normal_(model.cls_token)
    return model


@pytest.fixture(scope="module")
def resnet() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_backbone(BackboneConfig("resnet18", args={"channels": [8, 8, 16, 16]}, stem="small")).eval()


def test_a_vits_last_block_after_the_norm_is_its_output(vit: torch.nn.Module) -> None:
    with torch.no_grad():
        tokens = vit.forward_features(IMAGES)
        found = dense_features(vit, IMAGES)
        middle = dense_features(vit, IMAGES, block=1, norm=True)
        raw = dense_features(vit, IMAGES, block=1, norm=False)
    assert found.shape == (2, 24, 4, 6)
    torch.testing.assert_close(found, tokens[:, 1:].transpose(1, 2).reshape(2, 24, 4, 6))
    torch.testing.assert_close(middle, vit.norm(raw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    assert dense_features(vit, IMAGES, block=-2, norm=False).equal(raw)


def test_the_class_token_follows_the_map_of_its_block(vit: torch.nn.Module) -> None:
    with torch.no_grad():
        tokens = vit.forward_features(IMAGES)
        found = concatenated_features(vit, IMAGES, (0, 2), norm=True, class_token=True)
    assert found.shape == (2, 4 * 24, 4, 6)
    torch.testing.assert_close(found[:, 72:, 3, 5], tokens[:, 0])
    assert (found[:, 72:] == found[:, 72:, :1, :1]).all()


@pytest.mark.parametrize("registers", [0, 2])
def test_a_vit_without_class_token_has_the_same_maps(registers: int) -> None:
    args = {**TINY, "class_token": False, "global_pool": "", "reg_tokens": registers}
    model = build_backbone(BackboneConfig("vit_tiny_patch16_224", args=args)).eval()
    with torch.no_grad():
        tokens = model.forward_features(IMAGES)
        both = concatenated_features(model, IMAGES, (0, -1), norm=True)
    torch.testing.assert_close(both[:, 24:], tokens[:, registers:].transpose(1, 2).reshape(2, 24, 4, 6))
    assert not has_class_token(model)


def test_a_resnets_maps_are_its_stages(resnet: torch.nn.Module) -> None:
    with torch.no_grad():
        last = dense_features(resnet, IMAGES)
        both = concatenated_features(resnet, IMAGES, (-2, -1))
        torch.testing.assert_close(last, resnet.forward_features(IMAGES))
    assert last.shape == (2, 16, 4, 6)
    assert both.shape == (2, 32, 8, 12), "the coarser map is resized to the finer"
    assert [stage_of_stride(resnet, IMAGES, stride) for stride in (1, 2, 3, 4, 8, 64)] == [0, 1, 1, 2, 3, 3]


def test_raw_pixels_are_cells_of_eight_by_eight() -> None:
    backbone = fixed_backbone("pixels")
    assert backbone is not None
    found = dense_features(backbone.model, IMAGES)
    assert found.shape == (2, 192, 4, 6)
    assert found[1, :, 2, 3].sort().values.equal(IMAGES[1, :, 16:24, 24:32].flatten().sort().values)
    with pytest.raises(UserError, match=r"features\.size"):
        dense_features(backbone.model, IMAGES[..., :30])
    assert not has_class_token(backbone.model)


def test_blocks_and_class_tokens_that_do_not_exist_are_refused(vit: torch.nn.Module, resnet: torch.nn.Module) -> None:
    assert check_blocks(vit, (-1, 0)) == [2, 0]
    for model, block in ((vit, 3), (vit, -4), (resnet, 4)):
        with pytest.raises(UserError, match=r"features\.blocks"):
            check_blocks(model, (block,))
    with pytest.raises(UserError, match=r"features\.class_token"):
        concatenated_features(resnet, IMAGES, (-1,), class_token=True)
    assert has_class_token(vit)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}),
    ],
)
def test_the_last_stage_of_other_networks_is_normalised_where_they_do_it(name: str, args: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = build_backbone(BackboneConfig(name, args=args)).eval()
    norm = model.norm if name.startswith("swin") else model.head.norm
    torch.nn.init.normal_(norm.weight)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        raw, found, middle = (
            dense_features(model, images, block, norm) for block, norm in ((-1, False), (-1, True), (-2, True))
        )
        if name.startswith("swin"):
            expected = model.forward_features(images).permute(0, 3, 1, 2)
        else:
            expected = model.head.norm(model.forward_features(images))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, raw)
    assert middle.shape[-1] == 2 * found.shape[-1]
