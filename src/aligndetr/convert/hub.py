"""What a checkpoint says that its tensors do not: settings, and what is not ours.

transformers writes a `config.json`. The options of a training, which the code of IDEA and of
Deformable DETR keeps in its files, are read in the same words.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from aligndetr.errors import CheckpointError

Hub = Mapping[str, Any]
"""The content of a `config.json`; empty where nothing is said."""
DILATED = "backbone.output_stride=16"
"""Setting of a backbone whose last stage keeps the stride of the one before (DC5)."""
ACTIVATIONS = ("relu", "prelu")
STAGES = 4
"""Of a ResNet; its stem counts as number 0."""
RESNET = r"(wide_)?resne(t\d+(_2)?|xt\d+_\d+x\d+d)(\..*)?"
"""Names of timm's plain ResNets. Others compute something else from tensors of the same shapes."""
TRAINING_OPTIONS = {
    "nheads": ("encoder_attention_heads", "decoder_attention_heads"),
    "pe_temperatureH": ("temperature_height",),
    "pe_temperatureW": ("temperature_width",),
    "transformer_activation": ("activation_function",),
    **{
        name: (name,)
        for name in (
            "dilation",
            "with_box_refine",
            "pre_norm",
            "num_queries_one2one",
            "look_forward_twice",
        )
    },
}
"""Options of published trainings -> what transformers calls them."""


def hub_of_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a training's options in the words of a `config.json`, as far as they matter."""
    hub = {
        name: options[option]
        for option, names in TRAINING_OPTIONS.items()
        if option in options
        for name in names
    }
    is_two_stage = options.get("two_stage") or options.get("two_stage_type", "no") != "no"
    if is_two_stage and "num_queries" in options:
        hub["two_stage_num_proposals"] = options["num_queries"]
    return hub


def hub_settings(hub: Hub) -> list[str]:
    """Return what follows for our configuration, besides what the shapes tell."""
    settings: list[str] = []
    if "temperature_height" in hub:
        settings.append(f"position.temperature={hub['temperature_height']}")
    if is_dilated(hub):
        settings.append(DILATED)
    return settings


def is_dilated(hub: Hub) -> bool:
    """Whether the backbone's last stage keeps the stride of 16; older files say `dilation`."""
    if options := _backbone(hub):
        return options.get("output_stride") == 16
    return bool(hub.get("dilation")) or _timm_options(hub).get("output_stride") == 16


def stated_stages(hub: Hub) -> tuple[int, ...] | None:
    """Return the backbone's stages whose maps are given, from 0 (its stem); None if not said."""
    options = _backbone(hub) or _timm_options(hub)
    indices = options.get("out_indices")
    if not indices:
        return None
    places = 1 + len(options.get("hidden_sizes", range(STAGES)))
    return tuple(index % places for index in indices)


def refuse_variants(hub: Hub, where: str, place: str = "config.json") -> None:
    """Raise if a network of the same shapes as ours computes something else.

    Raises:
        CheckpointError: It does; `where` begins the message, which says in which `place` that is.
    """
    for option in _variants(hub):
        raise CheckpointError(
            f"{where}: expected a detector as published, found {option} in its {place}; "
            "this variant cannot be converted"
        )


def _variants(hub: Hub) -> Iterator[str]:
    activation = hub.get("activation_function", "relu")
    if activation not in ACTIVATIONS:
        yield f"activation_function={activation}"
    for one, other in (
        ("encoder_attention_heads", "decoder_attention_heads"),
        ("temperature_height", "temperature_width"),
    ):
        if hub.get(one) != hub.get(other):
            yield f"{one}={hub.get(one)} but {other}={hub.get(other)}"
    if hub.get("pre_norm"):
        yield "pre_norm=true"
    scale = hub.get("sine_position_embedding_scale")
    if scale is not None and not math.isclose(scale, 2 * math.pi, rel_tol=1e-6):
        yield f"sine_position_embedding_scale={scale}"
    yield from _backbone_variants(hub)


def _backbone_variants(hub: Hub) -> Iterator[str]:
    given = hub.get("backbone_config")
    if given is not None and not isinstance(given, Mapping):
        yield f"backbone_config={given!r}"
    backbone = _backbone(hub)
    if backbone.get("hidden_act", "relu") != "relu":
        yield f"backbone_config.hidden_act={backbone['hidden_act']}"
    for option in ("downsample_in_bottleneck", "downsample_in_first_stage"):
        if backbone.get(option):
            yield f"backbone_config.{option}=true"
    stride = {**_timm_options(hub), **backbone}.get("output_stride")
    if stride not in (None, 16, 32):
        yield f"output_stride={stride} of the backbone"
    name = backbone.get("backbone") or hub.get("backbone")
    if isinstance(name, str) and "/" not in name and not re.fullmatch(RESNET, name):
        yield f"backbone={name}"


def _backbone(hub: Hub) -> Hub:
    return _mapping(hub.get("backbone_config"))


def _timm_options(hub: Hub) -> Hub:
    """Return what older files say of a backbone of timm."""
    return _mapping(hub.get("backbone_kwargs"))


def _mapping(value: object) -> Hub:
    return cast("Hub", value) if isinstance(value, Mapping) else {}
