"""Network and input normalisation of foreign weights: by --arch, JSON beside them, their file, or their shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from converters.architecture import infer, parse_architecture, states
from converters.candidates import other_networks, same, sketch
from converters.inference.hints import NO_HINTS, Hints
from converters.settings.given import NOTHING, Given
from converters.settings.side_files import SideSettings
from core.backbones import BackboneConfig, describe, family_named
from core.checkpoints import GIVEN
from core.coverage import compare
from core.errors import UserError

# Arguments that make another network than the name says; a narrow ResNet-18 still goes by its name.
_SIZES = {"layers", "cardinality", "base_width", "patch_size", "embed_dim", "depth"}
ASSUMED = "ImageNet's mean and std, assumed"


@dataclass(frozen=True)
class Resolved:
    """A decided architecture."""

    config: BackboneConfig
    notes: tuple[str, ...]
    """Assumptions, and what decided where the weights do not show it."""
    normalisation: str
    """Source of mean and std."""


def resolve(
    tensors: Mapping[str, Tensor],
    arch: str | None,
    source: str,
    hints: Hints = NO_HINTS,
    side: SideSettings | None = None,
    declared: str | None = None,
    given: Given = NOTHING,
) -> Resolved:
    """The architecture of weights under timm's names.

    `arch` decides what the weights do not show and must fit them; without it the `side` settings do, then the name
    that the file itself has for its network (`declared`, ignored where it does not fit). `hints`: of the file's family.
    Raises `UserError` where the one that decides does not fit, where the shapes do not show the architecture, and where
    several networks with different features have these tensors.
    """
    side = side or SideSettings()
    facts = side.facts
    projection = tensors.get("patch_embed.proj.weight")
    if facts is not None and facts.heads is not None and projection is not None and projection.ndim:
        hints = dataclasses.replace(hints, heads={projection.shape[0]: facts.heads})
        hints = dataclasses.replace(hints, family=facts.file)
    if facts is not None:
        hints = dataclasses.replace(hints, args={**hints.args, **dict(facts.args)})
    inferred, note, reason = _inferred(tensors, source, hints)
    if inferred is not None and facts is not None and arch is None:
        inferred = facts.apply(inferred, source)
    decided = facts is not None and facts.activation is not None and facts.eps is not None
    others = other_networks(inferred, tensors) if inferred is not None and not decided else []
    if arch is not None:
        config, note = _asked(tensors, arch, source, inferred, note, bool(others))
    elif side.architecture is not None:
        config = BackboneConfig(side.architecture, dict(side.args))
        coverage = compare(sketch(config), tensors)
        if not coverage.complete:
            raise UserError(
                f"{source} does not fit {describe(config)} of the config.json beside it: {coverage.summary()}; correct "
                f"it, or give --arch"
            )
        if inferred is not None and not side.args and same(sketch(config), sketch(inferred)):
            config = inferred
        else:
            note = f"{describe(config)} by config.json"
    elif declared is not None and (found := _fitting(declared, tensors, inferred)) is not None:
        config, note = found, f"{declared} by the file's own entry"
    elif inferred is None:
        assert reason is not None
        raise reason
    elif others:
        shown = ", ".join(f"'{name}'" for name in (*others, describe(inferred)))
        raise UserError(
            f"{source} fits several networks that compute different features: {shown}; choose one with --arch"
        )
    else:
        config = inferred
    named = config.name in {other.partition("(")[0] for other in others} or inferred is None
    config, normalisation = _normalised(config, arch, side, named, hints, given)
    if arch is not None and given.pos_resize is None and states(arch, "pos_resize"):
        given = dataclasses.replace(given, pos_resize=parse_architecture(arch).pos_resize)
    config, positions = _positions(config, tensors, hints, given, side)
    statistics = "ImageNet's mean and std assumed" if normalisation == ASSUMED else f"mean and std of {normalisation}"
    return Resolved(config, tuple(filter(None, (note, statistics, positions))), normalisation)


def _inferred(
    tensors: Mapping[str, Tensor], source: str, hints: Hints
) -> tuple[BackboneConfig | None, str, UserError | None]:
    try:
        return *infer(tensors, source, hints), None
    except UserError as error:
        return None, "", error


def _asked(
    tensors: Mapping[str, Tensor], arch: str, source: str, inferred: BackboneConfig | None, note: str, ambiguous: bool
) -> tuple[BackboneConfig, str]:
    wanted = parse_architecture(arch)
    plain = (
        dataclasses.replace(wanted, mean=BackboneConfig().mean, std=BackboneConfig().std)
        if wanted.in_chans == 3
        else wanted
    )
    bare = (
        inferred is not None
        and dataclasses.replace(plain, pos_resize="timm") == BackboneConfig(inferred.name)
        and not _SIZES & inferred.args.keys()
    )
    if inferred is not None and bare and not ambiguous:
        return inferred, note
    coverage = compare(sketch(wanted), tensors)
    if not coverage.complete:
        if inferred is None:
            raise UserError(f"{source} does not fit --arch {arch}: {coverage.summary()}")
        raise UserError(f"{source} is a {describe(inferred)}, --arch says {arch}")
    return plain, f"--arch {arch}"


def _fitting(name: str, tensors: Mapping[str, Tensor], inferred: BackboneConfig | None) -> BackboneConfig | None:
    """The network that a file names, if its tensors are those and it is not the inferred one anyway."""
    if inferred is not None and name == inferred.name:
        return None
    try:
        model = sketch(BackboneConfig(name))
    except (UserError, ValueError):  # names of the project's own
        return None
    if not compare(model, tensors).complete or (inferred is not None and same(model, sketch(inferred))):
        return None
    return BackboneConfig(name)


def _normalised(
    config: BackboneConfig, arch: str | None, side: SideSettings, named: bool, hints: Hints, given: Given
) -> tuple[BackboneConfig, str]:
    """The config with its mean and std, and where they come from.

    `named`: the weights alone did not decide on the architecture, so timm's settings of its name hold.
    """
    import timm

    if given.mean is not None:
        return given.apply(config), GIVEN
    if arch is not None and (states(arch, "mean") or states(arch, "std")):
        if not (states(arch, "mean") and states(arch, "std")):
            raise UserError(f"mean and std belong together in --arch {arch}; give both")
        asked = parse_architecture(arch)
        return dataclasses.replace(config, mean=asked.mean, std=asked.std), "--arch"
    if side.mean is not None and side.std is not None:
        return dataclasses.replace(config, mean=side.mean, std=side.std), side.where
    if named and (settings := timm.get_pretrained_cfg(config.name)) is not None:
        (r, g, b), (r_std, g_std, b_std) = settings.mean, settings.std
        return dataclasses.replace(config, mean=(r, g, b), std=(r_std, g_std, b_std)), f"timm's {config.name}"
    if config.in_chans != 3:
        raise UserError(
            f"the backbone takes {config.in_chans} channels, whose mean and std nothing states; give --mean and --std"
        )
    if hints.statistics is not None:
        mean, std = hints.statistics
        return dataclasses.replace(config, mean=mean, std=std), "its project"
    return config, ASSUMED


def _positions(
    config: BackboneConfig, tensors: Mapping[str, Tensor], hints: Hints, given: Given, side: SideSettings
) -> tuple[BackboneConfig, str]:
    """The config with its rule for position embeddings, and a note where it isn't timm's or is assumed."""
    rule = given.pos_resize or (config.pos_resize if config.pos_resize != "timm" else hints.positions)
    plain = family_named(config.name).architecture == "vit" and "pos_embed" in tensors
    if not plain and given.pos_resize is None:
        return dataclasses.replace(config, pos_resize="timm"), ""
    note = f"position embeddings resized as {rule}" if rule != "timm" else ""
    if not note and given.pos_resize is None and not hints.family and side.architecture is None and side.facts is None:
        note = "position embeddings resized as timm does, assumed (--pos-resize)"
    return dataclasses.replace(config, pos_resize=rule), note
