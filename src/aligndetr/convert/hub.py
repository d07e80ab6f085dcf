"""What transformers' `config.json` says that tensors do not: settings, and what is not ours."""

from collections.abc import Iterator, Mapping
from typing import Any

from aligndetr.errors import CheckpointError

Hub = Mapping[str, Any]
"""The content of a `config.json`; empty where the weights are of other code."""
DILATED = "backbone.output_stride=16"
"""Setting of a backbone whose last stage keeps the stride of the one before (DC5)."""
ACTIVATIONS = ("relu", "prelu")


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
    options = _backbone(hub)
    return options.get("output_stride") == 16 if options else bool(hub.get("dilation"))


def refuse_variants(hub: Hub, where: str) -> None:
    """Raise if a network of the same shapes as ours computes something else.

    Raises:
        CheckpointError: It does; `where` begins the message.
    """
    for option in _variants(hub):
        raise CheckpointError(
            f"{where}: expected a detector as published, found {option} in its config.json; "
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
    backbone = _backbone(hub)
    if backbone.get("hidden_act", "relu") != "relu":
        yield f"backbone_config.hidden_act={backbone['hidden_act']}"
    for option in ("downsample_in_bottleneck", "downsample_in_first_stage"):
        if backbone.get(option):
            yield f"backbone_config.{option}=true"


def _backbone(hub: Hub) -> Hub:
    return hub.get("backbone_config") or {}
