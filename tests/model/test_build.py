from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from aligndetr.config.presets import get_detr
from aligndetr.config.schema import Config
from aligndetr.config.slots import (
    Backbone,
    ConditionalAttention,
    Decoder,
    DeformableAttention,
    DeformableEncoder,
    DenseEncoder,
    FullAttention,
    GaussianAttention,
    PointQueries,
)
from aligndetr.model.build import build_model
from aligndetr.model.detector import DetectorModel
from aligndetr.model.heads import Head
from aligndetr.types import ImageBatch, Targets
from systems import (
    CLASSES,
    SYSTEMS,
    blind_biases,
    idle_parameters,
    network,
    perturbed,
    small,
)

CPU = torch.device("cpu")


def build(config: Config) -> DetectorModel:
    torch.manual_seed(0)
    model, _ = build_model(config, device=CPU)
    return model


# Which parts


def names_of(*modules: nn.Module | None) -> str:
    return " ".join(type(module).__name__ for module in modules)


@pytest.mark.parametrize(
    ("system", "encoder", "source", "positions", "attention", "reading", "guide"),
    [
        # DETR: everything learned, everything dense
        ("detr-r50", "DenseEncoder", "LearnedQueries", "GivenPositions",
         "SelfAttention", "FullReading", "NoneType"),
        # Conditional DETR: contents and places apart
        ("conditional-detr-r50", "DenseEncoder", "PointQueries", "GivenPositions",
         "SeparateSelfAttention", "ConditionalReading", "PlaceEmbedding"),
        # SMCA: DETR's attention, around a point
        ("smca-r50", "DenseEncoder", "PointQueries", "GivenPositions",
         "SelfAttention", "GaussianReading", "NoneType"),
        # Anchor DETR: rows and columns on both sides
        ("anchor-detr-r50", "RowColumnEncoder", "AnchorPointQueries", "EmbeddedPositions",
         "SelfAttention", "RowColumnReading", "AxisEmbedding"),
        # DAB-DETR: Conditional DETR with boxes
        ("dab-detr-r50", "DenseEncoder", "AnchorBoxQueries", "EmbeddedPositions",
         "SeparateSelfAttention", "ConditionalReading", "PlaceEmbedding"),
        # Deformable DETR: points are read
        ("deformable-detr-r50", "DeformableEncoder", "PointQueries", "GivenPositions",
         "SelfAttention", "DeformableReading", "NoneType"),
        ("deformable-detr-two-stage-r50", "DeformableEncoder", "TopQueries", "GivenPositions",
         "SelfAttention", "DeformableReading", "NoneType"),
        ("h-deformable-detr-r50", "DeformableEncoder", "TopQueries", "GivenPositions",
         "SelfAttention", "DeformableReading", "NoneType"),
        # DAB-Deformable-DETR: boxes are read
        ("dab-deformable-detr-r50", "DeformableEncoder", "AnchorBoxQueries", "EmbeddedPositions",
         "SelfAttention", "DeformableReading", "NoneType"),
        # DINO and what is built on it
        ("dino-r50-4scale", "DeformableEncoder", "TopQueries", "EmbeddedPositions",
         "SelfAttention", "DeformableReading", "NoneType"),
        ("group-detr-r50", "DeformableEncoder", "TopQueries", "EmbeddedPositions",
         "SelfAttention", "DeformableReading", "NoneType"),
    ],
)  # fmt: skip
def test_every_system_has_its_own_parts(
    system: str, encoder, source, positions, attention, reading, guide
):
    model = network(system)
    places = model.decoder.places
    assert names_of(model.encoder, model.queries) == f"{encoder} {source}"
    assert names_of(places.positions, places.guide) == f"{positions} {guide}"
    for layer in model.decoder.layers:
        parts = (layer.self_attention, layer.cross_attention)
        assert names_of(*parts) == f"{attention} {reading}"  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("system", "has_denoising", "has_negatives", "groups", "has_embedding"),
    [
        ("detr-r50", False, False, 0, False),
        ("dn-detr-r50", True, False, 0, False),
        ("dab-deformable-detr-r50", False, False, 0, False),
        ("dn-deformable-detr-r50", True, False, 0, False),
        ("deformable-detr-two-stage-r50", False, False, 0, True),
        ("dino-r50-4scale", True, True, 0, False),
        ("h-deformable-detr-r50", False, False, 1, True),
        ("group-detr-r50", True, True, 2, False),
    ],
)
def test_what_a_system_has_for_training(
    system: str, has_denoising, has_negatives, groups: int, has_embedding
):
    model = network(system)
    assert (model.denoising is not None) == has_denoising
    assert has_negatives == (model.denoising is not None and model.denoising.has_negatives)
    assert model.queries.layout.groups == groups
    assert (getattr(model.queries, "embedding", None) is not None) == has_embedding


def test_scales_of_positions_are_where_dab_detr_has_them():
    scaled = [name for name in SYSTEMS if getattr(network(name).encoder, "scale", None)]
    assert scaled == ["dab-detr-r50", "dn-detr-r50"]
    positions = {name: network(name).decoder.places.positions for name in SYSTEMS}
    scaled = [name for name, part in positions.items() if getattr(part, "scale", None)]
    assert scaled == ["dab-deformable-detr-r50", "dn-deformable-detr-r50"]


def test_layers_of_smca_mix_levels_where_it_says_so():
    layers = network("smca-r50").encoder.layers
    assert [layer.mixes_levels for layer in layers] == [False, True]
    assert [layer.mixes_levels for layer in network("detr-r50").encoder.layers] == [True]


def test_row_column_attention_has_one_embedding_of_places_for_all():
    model = network("anchor-detr-r50")
    axes = model.encoder.axes
    assert model.decoder.places.guide is axes


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_object_is_a_class_of_the_softmax_alone(system: str):
    has_softmax = small(system).has_softmax
    assert has_softmax == (system == "detr-r50")
    head = network(system).decoder.heads[0]
    assert isinstance(head, Head)
    assert head.classes.out_features == CLASSES + has_softmax
    assert not small(system, is_aligned=True).has_softmax


@pytest.mark.parametrize("system", SYSTEMS)
def test_heads_are_shared_or_one_a_layer(system: str):
    heads = network(system).decoder.heads
    assert (heads[0] is heads[1]) == small(system).decoder.heads_shared


@pytest.mark.parametrize("system", ["detr-r50", "dab-detr-r50", "deformable-detr-r50", "smca-r50"])
def test_dropout_reaches_every_layer(system: str):
    config = small(system)
    changed: dict[str, Any] = {
        name: getattr(config, name).model_copy(update={"dropout": 0.25})
        for name in ("encoder", "decoder")
    }
    model = build(config.model_copy(update=changed))
    shares = Counter(module.p for module in model.modules() if isinstance(module, nn.Dropout))
    assert set(shares) == {0.25}
    for layer in model.decoder.layers:
        reading: Any = layer.cross_attention
        inner = getattr(reading.attention, "attention", reading.attention)
        assert getattr(inner, "dropout", 0.25) == 0.25  # a deformable one has none


# How they start


def test_a_fresh_model_starts_as_dino_does():
    """Statistics of a fresh full-size DINO: xavier matrices, priors, rays, normal embeddings."""
    tiny = Backbone(name="test_resnet", pretrained=False)  # channels 48, 192, 96
    state = build(get_detr("dino-r50-4scale").model_copy(update={"backbone": tiny})).state_dict()
    attention = "decoder.layers.0.self_attention"
    expected = {
        f"{attention}.in_proj.weight": 0.0442,
        f"{attention}.out_proj.weight": 0.0625,
        "encoder.layers.0.attention.value.weight": 0.0625,
        "encoder.layers.0.attention.offsets.weight": 0.0,
        "encoder.layers.0.attention.offsets.bias": 2.376,
        "encoder.layers.0.feedforward.expand.weight": 0.0295,
        "decoder.places.positions.embed.layers.0.weight": 0.0511,
        "queries.content": 0.0416,
        "queries.project.weight": 0.0625,
        "queries.head.box.layers.0.weight": 0.0361,
        "decoder.heads.5.box.layers.2.weight": 0.0,
        "neck.level": 1.0,
        "denoising.label.weight": 1.0,
        "neck.projections.3.0.weight": 0.0251,
    }
    for name, deviation in expected.items():
        assert float(state[name].std()) == pytest.approx(deviation, rel=0.05, abs=1e-6), name
    assert float(state["decoder.heads.0.classes.bias"].mean()) == pytest.approx(-4.5951, abs=1e-3)


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("detr-r50", {"queries.position": 1.0}),
        ("deformable-detr-r50", {"queries.position": 1.0, "queries.content": 1.0}),
        ("anchor-detr-r50", {"queries.points": 0.2887, "queries.patterns": 1.0}),
        ("dab-detr-r50", {"queries.boxes": 1.0}),
        ("dn-detr-r50", {"queries.boxes": 1.0, "queries.content": 1.0}),
        ("h-deformable-detr-r50", {"queries.content": 1.0}),  # DINO's is xavier's
        (
            "smca-r50",
            {
                "decoder.layers.0.cross_attention.attention.shift.weight": 0.0,
                "decoder.layers.1.cross_attention.attention.spread.weight": 0.0,
            },
        ),
    ],
)
def test_queries_and_special_parts_have_a_start_of_their_own(system: str, expected):
    config = small(system)
    many = config.queries.model_copy(update={"count": 300})
    state = build(config.model_copy(update={"queries": many})).state_dict()
    for name, deviation in expected.items():
        assert float(state[name].std()) == pytest.approx(deviation, rel=0.12, abs=1e-6), name


def last_of_box_head(system: str) -> nn.Linear:
    head = build(small(system)).decoder.heads[0]
    assert isinstance(head, Head)
    last = head.box.layers[-1]
    assert isinstance(last, nn.Linear)
    return last


@pytest.mark.parametrize(
    ("system", "size_bias"),
    [("deformable-detr-r50", -2.0), ("anchor-detr-r50", -2.0), ("conditional-detr-r50", 0.0)],
)
def test_boxes_of_points_start_at_the_size_that_the_head_says(system: str, size_bias: float):
    last = last_of_box_head(system)
    assert last.bias.tolist() == [0, 0, size_bias, size_bias]
    assert last.weight.abs().max() == 0


def test_boxes_without_a_reference_start_as_torch_draws_them():
    assert last_of_box_head("detr-r50").weight.std() > 0.01


# What no paper has


COMBINED = {
    "dense, deformable": (DenseEncoder(layers=1), DeformableAttention()),
    "deformable, full": (DeformableEncoder(layers=1), FullAttention()),
    "deformable, conditional": (DeformableEncoder(layers=1), ConditionalAttention()),
    "deformable, gaussian": (DeformableEncoder(layers=1), GaussianAttention()),
    "none, full": (DenseEncoder(layers=0), FullAttention()),
    "none, gaussian": (DenseEncoder(layers=0), GaussianAttention()),
    "none, deformable": (DeformableEncoder(layers=0), DeformableAttention()),
}
WITHOUT_LEVELS = {"none, gaussian", "none, deformable"}
"""Where nobody can tell levels by their vectors."""


@pytest.mark.parametrize("combination", COMBINED)
def test_slots_that_no_paper_combined_work_together(
    combination: str, images: ImageBatch, targets: Targets
):
    encoder, attention = COMBINED[combination]
    config = small(
        "deformable-detr-r50",
        encoder=encoder.model_copy(update={"feedforward": 32, "dropout": 0.0}),
        queries=PointQueries(count=8, content="learned"),
        decoder=Decoder(
            layers=2,
            feedforward=32,
            cross_attention=attention,
            position="given",
            refinement="detached",
        ),
    )
    assert Config.model_validate(config.model_dump()) == config  # the schema allows it
    model = perturbed(build(config)).train()
    losses = config.criterion(model(images, targets), targets)
    torch.stack(list(losses.values())).sum().backward()
    assert idle_parameters(model) == blind_biases(model)
    assert model.neck.level is not None
    assert model.neck.level.requires_grad == (combination not in WITHOUT_LEVELS)
