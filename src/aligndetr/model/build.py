"""From a configuration to a network: with `build_parts`, the one place that knows both."""

from functools import partial
from typing import assert_never, overload

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from aligndetr.backbones.backbone import Backbone
from aligndetr.backbones.weights import create_backbone
from aligndetr.config.schema import AnyConfig, Config, RegionConfig
from aligndetr.config.slots import ContrastiveDenoising, PlainDenoising
from aligndetr.model.build_parts import build_decoder, build_encoder, build_queries
from aligndetr.model.denoising import Denoising, always, blocks_for
from aligndetr.model.detector import DetectorModel
from aligndetr.model.heads import Head
from aligndetr.model.neck import Neck
from aligndetr.model.places import AxisEmbedding
from aligndetr.precision import resolve_precision
from aligndetr.regions.build import build_regions
from aligndetr.regions.detector import RegionDetector

Network = DetectorModel | RegionDetector
"""A network of either kind: it takes images or their features, and objects to train on."""


@overload
def build_model(
    config: Config, *, device: torch.device, pretrained: bool | None = None
) -> tuple[DetectorModel, str]: ...


@overload
def build_model(
    config: RegionConfig, *, device: torch.device, pretrained: bool | None = None
) -> tuple[RegionDetector, str]: ...


def build_model(
    config: AnyConfig, *, device: torch.device, pretrained: bool | None = None
) -> tuple[Network, str]:
    """Return the network on `device`, and a sentence that says which backbone weights it has.

    Args:
        config: What to build.
        device: Where it will run; decides what `precision: auto` means.
        pretrained: Overrides `backbone.pretrained`; False before loading a checkpoint.

    Raises:
        CheckpointError: The backbone's weights cannot be had.
    """
    backbone, origin = build_backbone(config, pretrained=pretrained)
    precision = resolve_precision(config.precision, device)
    match config:
        case Config():
            model = build_detector(config, backbone, precision=precision)
            _prepare_layers(model, config)
        case RegionConfig():
            model = build_regions(config, backbone, precision=precision)
    return model.to(device), origin


def build_detector(
    config: Config, backbone: Backbone, *, precision: torch.dtype = torch.float32
) -> DetectorModel:
    """Return the network with that backbone, the rest of it freshly drawn."""
    axes = AxisEmbedding(config.width)  # one for all who look along rows and columns
    model = DetectorModel(
        backbone=backbone,
        neck=_build_neck(config, backbone),
        encoder=build_encoder(config, axes),
        queries=build_queries(config),
        denoising=_build_denoising(config),
        decoder=build_decoder(config, axes),
        precision=precision,
    )
    _initialise(model)
    compares_levels = config.decoder.cross_attention.type in ("full", "conditional")
    if model.neck.level is not None and config.encoder.layers == 0 and not compares_levels:
        model.neck.level.requires_grad_(False)  # nothing depends on it
    return model


def _prepare_layers(model: DetectorModel, config: Config) -> None:
    """Let layers be recomputed or compiled where that is asked for; weights keep their names."""
    layers = [*model.encoder.layers, *model.decoder.layers]
    if config.training.recompute:
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    if config.compile:  # not the whole: it would see how many objects every batch has
        for part in (model.backbone, *layers):
            part.compile()


def build_backbone(config: AnyConfig, *, pretrained: bool | None = None) -> tuple[Backbone, str]:
    """Return the backbone and a sentence about its weights."""
    options = config.backbone
    wanted = options.pretrained if pretrained is None else pretrained
    network, origin = create_backbone(
        options.name,
        strides=options.strides,
        output_stride=options.output_stride,
        source=(options.weights or "pretrained") if wanted else None,
        arguments=options.options,
    )
    unfreezing = config.training.unfreeze
    later = None if unfreezing is None else unfreezing.freeze
    backbone = Backbone(network, freeze=options.freeze, norm=options.norm, freeze_later=later)
    return backbone, origin


def _build_neck(config: Config, backbone: Backbone) -> Neck:
    options, position = config.neck, config.position
    return Neck(
        backbone.channels,
        config.width,
        levels=options.levels,
        temperature=position.temperature,
        offset=position.offset,
        extra=options.extra,
        has_norm=options.norm == "group",
        embeds_levels=config.encoder.type == "deformable" or options.levels > 1,
        sees_padding_in_evaluation=options.padding == "seen_in_evaluation",
    )


def _build_denoising(config: Config) -> Denoising | None:
    options = config.denoising
    match options:
        case None:
            return None
        case ContrastiveDenoising():
            blocks = blocks_for(options.queries, below=options.blocks_below)
            label_noise = options.label_noise / 2  # half of them get their own label again
        case PlainDenoising():
            blocks = always(options.blocks)
            label_noise = options.label_noise
        case _:
            assert_never(options)
    return Denoising(
        config.width,
        config.num_classes,
        has_negatives=options.type == "contrastive",
        blocks=blocks,
        label_noise=label_noise,
        box_noise=options.box_noise,
        eps=config.decoder.inverse_sigmoid_eps,
    )


def _initialise(model: DetectorModel) -> None:
    """Draw every matrix of the transformer from xavier's uniform distribution, as all systems do.

    Heads keep their own start; then every part that has one of its own makes it.
    """
    for part in (model.encoder, model.queries, model.decoder):
        heads = {
            parameter
            for module in part.modules()
            if isinstance(module, Head)
            for parameter in module.parameters()
        }
        for parameter in part.parameters():
            if parameter.dim() > 1 and parameter not in heads:
                nn.init.xavier_uniform_(parameter)
        for module in part.modules():
            draw = getattr(module, "draw_parameters", None)
            if draw is not None:
                draw()
