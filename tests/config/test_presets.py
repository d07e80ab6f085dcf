import pytest

from aligndetr.config.codec import dump_config, override, parse_config
from aligndetr.config.family_deformable import dn_deformable_detr
from aligndetr.config.presets import (
    PRESETS,
    align,
    describe,
    dino,
    get_detr,
    get_preset,
    list_presets,
)
from aligndetr.config.published import PUBLISHED
from aligndetr.config.schema import Config, StepSchedule
from aligndetr.config.slots import AnchorBoxQueries, ConditionalAttention, ContrastiveDenoising
from aligndetr.config.variants import dc5, r101, retimed
from aligndetr.errors import ConfigError
from aligndetr.losses.classification import IABCE, Focal, SoftmaxCE
from aligndetr.losses.costs import FocalCost, SoftmaxCost

DETRS = [name for name in PRESETS if isinstance(get_preset(name), Config)]
ALIGNED = [name for name in PRESETS if f"align-{name}" in PRESETS]
"""Presets that have an Align version."""
TREE = [
    # child, parent, the slots that differ
    ("conditional-detr-r50", "detr-r50", "queries decoder postprocess criterion data training"),
    ("smca-r50", "conditional-detr-r50", "backbone neck encoder decoder postprocess"),
    (
        "anchor-detr-r50",
        "conditional-detr-r50",
        "neck position encoder queries decoder head data",
    ),
    (
        "dab-detr-r50",
        "conditional-detr-r50",
        "position encoder queries decoder postprocess criterion",
    ),
    ("dn-detr-r50", "dab-detr-r50", "queries denoising"),
    (
        "deformable-detr-r50",
        "conditional-detr-r50",
        "backbone neck position encoder queries decoder head data training",
    ),
    ("deformable-detr-refined-r50", "deformable-detr-r50", "decoder"),
    (
        "deformable-detr-two-stage-r50",
        "deformable-detr-refined-r50",
        "queries head criterion",
    ),
    (
        "h-deformable-detr-r50",
        "deformable-detr-two-stage-r50",
        "encoder queries decoder groups data training",
    ),
    (
        "dab-deformable-detr-r50",
        "deformable-detr-refined-r50",
        "encoder queries decoder criterion data training",
    ),
    ("dn-deformable-detr-r50", "dab-deformable-detr-r50", "denoising"),
    ("dn-deformable-detr-r50-12ep", "dn-deformable-detr-r50", "training"),
    (
        "dino-r50-4scale",
        "dn-deformable-detr-r50",
        "backbone queries decoder denoising head postprocess data training",
    ),
    ("dino-r50-4scale-24ep", "dino-r50-4scale", "training"),
    ("dino-r50-4scale-36ep", "dino-r50-4scale", "training"),
    ("dino-r50-5scale", "dino-r50-4scale", "backbone neck"),
    ("group-detr-r50", "dino-r50-4scale", "queries groups"),
    ("detr-r101", "detr-r50", "backbone"),
    ("dab-detr-dc5-r101", "dab-detr-r50", "backbone"),
    ("align-detr-r50", "detr-r50", "postprocess criterion"),  # its softmax gives way
    ("align-dab-detr-r50", "dab-detr-r50", "criterion"),
    (
        "align-dab-detr-r50-released",
        "align-dab-detr-r50",
        "backbone queries decoder criterion data",
    ),
    ("align-dino-r50-4scale-released", "align-dino-r50-4scale", "criterion"),
    (
        "align-dino-lite",
        "align-dino-r50-4scale",
        "width heads backbone neck position encoder queries decoder denoising postprocess "
        "criterion data training",
    ),
    ("align-dino-tiny", "align-dino-lite", "encoder data training"),
    (
        "align-dino-small",
        "align-dino-lite",
        "width heads backbone encoder queries decoder denoising data training",
    ),
]


def test_align_dino_is_table_a_of_the_paper():
    config = get_detr("align-dino-r50-4scale")
    criterion, matcher = config.criterion, config.criterion.matcher
    assert config.backbone.name == "resnet50.tv_in1k"
    assert config.backbone.strides == (8, 16, 32)  # res3, res4, res5
    assert config.backbone.norm == "frozen"
    assert config.position.temperature == 10000
    assert (config.width, config.heads) == (256, 8)
    assert (config.encoder.layers, config.encoder.feedforward, config.encoder.dropout) == (
        6,
        2048,
        0,
    )
    assert (config.decoder.layers, config.decoder.feedforward, config.decoder.dropout) == (
        6,
        2048,
        0,
    )
    assert (config.num_classes, config.queries.count) == (80, 900)
    assert (matcher.class_cost, matcher.l1, matcher.giou) == (2, 5, 2)
    assert matcher.score == FocalCost(alpha=0.25, gamma=2)
    assert (criterion.class_weight, criterion.box.l1, criterion.box.giou) == (1, 5, 2)
    assert config.denoising == ContrastiveDenoising(queries=100, label_noise=0.5, box_noise=1.0)
    assert criterion.classification == IABCE(alpha=0.25, gamma=2)
    assert (criterion.k, criterion.tau, criterion.proposal_k) == (3, 1.5, 1)


def test_the_released_variant_differs_in_k_alone():
    paper, released = (
        get_detr("align-dino-r50-4scale"),
        get_detr("align-dino-r50-4scale-released"),
    )
    assert (released.criterion.k, released.criterion.proposal_k) == (2, 2)
    same = released.model_copy(update={"name": paper.name, "criterion": paper.criterion})
    assert same == paper


@pytest.mark.parametrize(("child", "parent", "slots"), TREE)
def test_a_system_differs_from_its_parent_in_a_few_slots(child: str, parent: str, slots: str):
    ours, theirs = get_detr(child), get_detr(parent)
    differing = [
        field for field in Config.model_fields if getattr(ours, field) != getattr(theirs, field)
    ]
    assert differing == sorted({"name", *slots.split()}, key=list(Config.model_fields).index)


def test_every_system_has_its_place_in_the_tree():
    known = {child for child, _, _ in TREE} | {"detr-r50"}
    systems = {name for name in DETRS if "r101" not in name and "dc5" not in name}
    assert {name for name in systems - known if not name.startswith("align-")} == set()


def test_the_defaults_of_every_slot_are_those_of_dino():
    config = dino()
    bare = Config(name=config.name, data=config.data, training=config.training)
    assert config == bare


@pytest.mark.parametrize("name", ALIGNED)
def test_align_changes_the_criterion_alone(name: str):
    plain, aligned = get_detr(name), get_detr(f"align-{name}")
    assert plain.criterion.k == 1
    assert aligned.criterion.classification == IABCE(alpha=0.25, gamma=2)
    assert aligned.criterion.class_weight == 1
    assert aligned.criterion.tau == 1.5
    assert aligned.postprocess.scores == "sigmoid"
    same = {"name": plain.name, "criterion": plain.criterion}
    scores = {"scores": plain.postprocess.scores}
    postprocess = aligned.postprocess.model_copy(update=scores)
    assert aligned.model_copy(update={**same, "postprocess": postprocess}) == plain


def test_align_gives_a_softmax_system_a_score_for_each_class():
    plain, aligned = get_detr("detr-r50"), get_detr("align-detr-r50")
    assert isinstance(plain.criterion.classification, SoftmaxCE)
    assert plain.criterion.matcher.score == SoftmaxCost()
    assert (plain.criterion.matcher.class_cost, aligned.criterion.matcher.class_cost) == (1, 2)
    assert aligned.criterion.matcher.score == FocalCost()
    assert not aligned.has_softmax


def test_align_keeps_what_else_the_criterion_says():
    two_stage = get_detr("align-deformable-detr-two-stage-r50").criterion
    assert two_stage.proposal_labels == "one"
    changed = override(dino(), ["criterion.iou_eps=1e-6"])
    assert isinstance(changed.criterion.classification, Focal)
    assert align(changed).criterion.iou_eps == 1e-6


def test_table_7_has_ia_bce_alone():
    aligned = get_detr("align-h-deformable-detr-r50")
    assert aligned.criterion.k == 1
    assert aligned.groups == get_detr("h-deformable-detr-r50").groups


def test_align_dab_as_released_is_the_authors_code():
    released = get_detr("align-dab-detr-r50-released")
    assert (released.criterion.k, released.criterion.tau) == (2, 1.5)
    assert released.queries == AnchorBoxQueries(centres="uniform")
    assert released.decoder.heads_shared
    assert released.decoder.cross_attention == ConditionalAttention(has_size=True, padding="seen")
    assert (released.backbone.freeze, released.data.keep_empty) == (1, False)


def test_dc5_has_the_last_stage_at_stride_16():
    config = dc5(r101(get_detr("detr-r50")))
    assert config.name == "detr-dc5-r101"
    assert config.backbone.name == "resnet101.tv_in1k"
    assert (config.backbone.strides, config.backbone.output_stride) == ((16,), 16)
    assert config == get_detr("detr-dc5-r101")


def test_the_recipe_is_that_of_the_authors():
    training = get_detr("align-dino-r50-4scale").training
    assert (training.learning_rate, training.backbone_factor, training.weight_decay) == (
        1e-4,
        0.1,
        1e-4,
    )
    assert (training.clip_norm, training.epochs, training.ema) == (0.1, 12, None)
    assert training.schedule == StepSchedule(milestones=(11 / 12,), factor=0.1, warmup=0)


@pytest.mark.parametrize(
    ("name", "epochs", "drop", "batch", "rate"),
    [
        ("detr-r50", 500, 400, 64, 1e-4),
        ("conditional-detr-dc5-r101", 50, 40, 16, 1e-4),
        ("smca-r50", 50, 40, 16, 1e-4),
        ("anchor-detr-r50", 50, 40, 8, 1e-4),
        ("dab-detr-r50", 50, 40, 16, 1e-4),
        ("dn-detr-r50", 50, 40, 16, 1e-4),
        ("deformable-detr-r50", 50, 40, 32, 2e-4),
        ("deformable-detr-refined-r50", 50, 40, 32, 2e-4),
        ("deformable-detr-two-stage-r50", 50, 40, 32, 2e-4),
        ("dab-deformable-detr-r50", 50, 40, 16, 1e-4),
        ("dn-deformable-detr-r50", 50, 40, 16, 1e-4),
        ("dn-deformable-detr-r50-12ep", 12, 11, 16, 1e-4),
        ("dino-r50-4scale", 12, 11, 16, 1e-4),  # 1x
        ("dino-r50-4scale-24ep", 24, 20, 16, 1e-4),  # 2x
        ("dino-r50-4scale-36ep", 36, 30, 16, 1e-4),
        ("dino-r50-5scale", 12, 11, 16, 1e-4),
        ("h-deformable-detr-r50", 12, 11, 16, 2e-4),
        ("group-detr-r50", 12, 11, 16, 1e-4),
        ("align-dab-detr-r50", 50, 40, 16, 1e-4),  # the paper, section 4.1
        ("align-dino-r50-4scale-24ep", 24, 20, 16, 1e-4),
    ],
)
def test_the_schedules_are_the_published_ones(
    name: str, epochs: int, drop: int, batch: int, rate: float
):
    config = get_detr(name)
    schedule = config.training.schedule
    assert isinstance(schedule, StepSchedule)
    assert (config.training.epochs, config.data.batch_size) == (epochs, batch)
    assert [round(share * epochs, 9) for share in schedule.milestones] == [drop]
    assert (schedule.factor, config.training.learning_rate) == (0.1, rate)
    assert config.training.backbone_factor == 0.1
    assert config.training.offset_factor == (0.1 if rate == 2e-4 else 1)  # Deformable DETR's code


def test_another_schedule_is_in_the_name():
    config = retimed(dn_deformable_detr(), epochs=24, drop=20)
    assert config.name == "dn-deformable-detr-r50-24ep"
    assert config.training.schedule == StepSchedule(milestones=(20 / 24,))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_configuration_of_its_own_name(name):
    config = get_preset(name)
    assert config.name == name
    assert type(config).model_validate(config.model_dump()) == config
    assert parse_config(dump_config(config), "here") == config


@pytest.mark.parametrize(
    ("name", "epochs", "ap", "params_m", "gflops"),
    [
        # Table 2
        ("detr-r50", 500, 42.0, 41, 86),  # DETR-R50
        ("anchor-detr-r50", 50, 42.1, 39, None),  # Anchor DETR-R50
        ("conditional-detr-r50", 50, 40.9, 44, 90),  # Conditional DETR-R50
        ("dab-detr-r50", 50, 42.2, 44, 94),  # DAB-DETR-R50
        ("dn-detr-r50", 50, 44.1, 44, 94),  # DN-DETR-R50
        ("align-dab-detr-r50", 50, 46.0, 42, 94),  # Align-DETR-R50
        ("detr-r101", 500, 43.5, 60, 152),  # DETR-R101
        ("anchor-detr-r101", 50, 43.5, 58, None),  # Anchor DETR-R101
        ("conditional-detr-r101", 50, 42.8, 63, 156),  # Conditional DETR-R101
        ("dab-detr-r101", 50, 43.5, 63, 174),  # DAB-DETR-R101
        ("dn-detr-r101", 50, 45.2, 63, 174),  # DN-DETR-R101
        ("align-dab-detr-r101", 50, 46.9, 61, 174),  # Align-DETR-R101
        ("detr-dc5-r50", 500, 43.3, 41, 187),  # DETR-DC5-R50
        ("anchor-detr-dc5-r50", 50, 44.2, 39, 151),  # Anchor DETR-DC5-R50
        ("conditional-detr-dc5-r50", 50, 43.8, 44, 195),  # Conditional DETR-DC5-R50
        ("dab-detr-dc5-r50", 50, 44.5, 44, 202),  # DAB-DETR-DC5-R50
        ("dn-detr-dc5-r50", 50, 46.3, 44, 202),  # DN-DETR-DC5-R50
        ("align-dab-detr-dc5-r50", 50, 48.3, 42, 200),  # Align-DETR-DC5-R50
        ("detr-dc5-r101", 500, 44.9, 60, 253),  # DETR-DC5-R101
        ("anchor-detr-dc5-r101", 50, 45.1, 58, None),  # Anchor DETR-DC5-R101
        ("conditional-detr-dc5-r101", 50, 45.0, 63, 262),  # Conditional DETR-DC5-R101
        ("dab-detr-dc5-r101", 50, 45.8, 63, 282),  # DAB-DETR-DC5-R101
        ("dn-detr-dc5-r101", 50, 47.3, 63, 282),  # DN-DETR-DC5-R101
        ("align-dab-detr-dc5-r101", 50, 49.3, 61, 280),  # Align-DETR-DC5-R101
        # Table 3
        ("smca-r50", 50, 43.7, 40, None),  # SMCA
        ("deformable-detr-refined-r50", 50, 45.4, 40, 235),  # Deformable DETR
        ("dn-deformable-detr-r50-12ep", 12, 43.4, 48, 195),  # DN-DETR
        ("dab-deformable-detr-r50", 50, 46.9, 40, 173),  # DAB-Deformable-DETR
        ("dn-deformable-detr-r50", 50, 48.6, 47, None),  # DN-Deformable-DETR
        ("dino-r50-4scale", 12, 49.0, 47, 279),  # DINO, 1x
        ("dino-r50-4scale-24ep", 24, 50.4, 47, 279),  # DINO, 2x
        ("group-detr-r50", 12, 49.8, 47, None),  # GROUP-DETR
        ("h-deformable-detr-r50", 12, 48.7, None, 234),  # H-Deformable-DETR
        ("align-dino-r50-4scale", 12, 50.2, 47, 279),  # Align-DETR, 1x
        ("align-dino-r50-4scale-24ep", 24, 51.3, 47, 279),  # Align-DETR, 2x
        ("faster-rcnn-r50-fpn", 108, 42.0, 42, 180),  # Faster RCNN-FPN
        # Table 7
        ("align-h-deformable-detr-r50", 12, 49.3, None, None),  # H-Deformable-DETR with IA-BCE
        # Other papers and code
        ("deformable-detr-r50", 50, 43.8, None, None),  # arXiv:2010.04159, Table 1
        ("deformable-detr-two-stage-r50", 50, 46.2, None, None),  # arXiv:2010.04159, Table 1
        ("dino-r50-4scale-36ep", 36, 50.9, None, None),  # arXiv:2203.03605, Table 2
        ("dino-r50-5scale", 12, 49.4, None, None),  # arXiv:2203.03605, Table 1
        ("align-dino-r50-4scale-released", 12, 50.3, None, None),  # README of the authors
    ],
)
def test_what_is_published_is_said(
    name: str, epochs: int, ap: float, params_m: float | None, gflops: float | None
):
    info = describe(name)
    assert (info.epochs, info.ap, info.params_m, info.gflops) == (epochs, ap, params_m, gflops)


def test_numbers_are_of_presets_that_exist():
    assert set(PUBLISHED) <= set(PRESETS)


def test_no_other_preset_claims_a_number():
    claimed = {entry.name for entry in list_presets() if entry.ap is not None}
    assert claimed == set(PUBLISHED)


def test_the_systems_of_both_tables_are_there_and_aligned():
    for system in ("detr", "conditional-detr", "anchor-detr", "dab-detr", "dn-detr"):
        for backbone in ("r50", "r101", "dc5-r50", "dc5-r101"):
            assert {f"{system}-{backbone}", f"align-{system}-{backbone}"} <= set(PRESETS)
    plain = {name for name in DETRS if not name.startswith("align-")}
    assert {f"align-{name}" for name in plain} <= set(PRESETS)


def test_an_unknown_preset_names_the_closest():
    with pytest.raises(ConfigError, match="did you mean 'align-dino-lite'"):
        get_preset("align-dino-light")
    with pytest.raises(ConfigError, match="`aligndetr models` lists them"):
        get_preset("zzz")


def test_the_list_says_what_each_preset_is_for():
    listed = list_presets()
    assert [entry.name for entry in listed] == list(PRESETS)
    assert all(entry.title and entry.paper and entry.purpose and entry.command for entry in listed)
    assert all("arXiv:" in entry.paper for entry in listed)
    assert {entry.name: entry.ap for entry in listed}["align-dino-r50-4scale"] == 50.2


def test_a_list_of_k_must_have_a_number_for_every_decoder_layer() -> None:
    changed = override(dino(), ["criterion.k=[3,3,2,2,1,1]"])
    assert changed.criterion.k == (3, 3, 2, 2, 1, 1)
    with pytest.raises(ConfigError, match=r"criterion\.k: expected one number or 6, .* found 2"):
        override(dino(), ["criterion.k=[3,1]"])


def test_softmax_does_not_go_with_queries_chosen_by_score() -> None:
    with pytest.raises(ConfigError, match='softmax makes "no object" a class'):
        override(dino(), ["criterion.classification.type=softmax"])


@pytest.mark.parametrize(
    "change",
    [
        "criterion.classification={type: qfl, gamma: 1}",
        "criterion.classification={type: ia_bce_variant, w_pos: (t-s)^2, w_neg: (1-t)s^2}",
        "criterion.classification.type=tood",
        "criterion.matcher.score={type: score_iou, power: 4}",
        "criterion.matcher.score.beta=0.5",
        "head.iou_branch=true",
    ],
)
def test_rows_of_the_papers_tables_are_values(change) -> None:
    changed = override(dino(), [change])
    assert changed != dino()
    assert parse_config(dump_config(changed), "here") == changed
