"""Tables, verdicts and pictures of made-up outcomes."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from aligndetr.checkpoint import METRICS_FILE
from aligndetr.reproduce import misalignment, pictures
from aligndetr.reproduce.catalogue import EXPERIMENTS
from aligndetr.reproduce.experiment import Claim
from aligndetr.reproduce.misalignment import Kept
from aligndetr.reproduce.outcome import ArmOutcome, Outcome
from aligndetr.reproduce.places import Measured, Place
from aligndetr.reproduce.report import markdown, write_report
from aligndetr.reproduce.small import DataSet, small_config

ANALYSIS = Kept(
    br_recall=tuple(0.4 + 0.05 * m for m in range(1, 6)),
    br_recall_within=tuple((start, *[0.9] * 4) for start in (0.45, 0.5, 0.6)),
    best_iou_share=(0.9,) * 5,
    mean_iou_br=0.8,
    mean_iou_hc=0.7,
    pearson=0.5,
    spearman=None,
    ap_cost=0.1,
    best_regressed=tuple(range(20)),
    highest_confidence=tuple(range(20, 0, -1)),
    density=((1,) * 50,) * 50,
)
NOTHING = Kept(
    br_recall=(None,) * 5,
    br_recall_within=((None,) * 5,) * 3,
    best_iou_share=(None,) * 5,
    mean_iou_br=None,
    mean_iou_hc=None,
    pearson=None,
    spearman=None,
    ap_cost=None,
    best_regressed=(0,) * 20,
    highest_confidence=(0,) * 20,
    density=((0,) * 50,) * 50,
)
CURVE = '{"event": "eval", "step": 5, "AP": 0.1}\n{"event": "eval", "step": 9, "AP": 0.2}\n'


def outcome(
    data: DataSet, table: str, values: Mapping[str, list[float]], **extra: float
) -> Outcome:
    experiment = EXPERIMENTS[table]
    arms = tuple(
        ArmOutcome(
            experiment.arm(key),
            small_config(experiment.arm(key), data),
            2.0,
            {seed: {"AP": ap, **extra} for seed, ap in enumerate(aps, start=1)},
            {seed: Place(Path(f"{key}-{seed}")) for seed in range(1, len(aps) + 1)},
            {1.0: 0.1, 2.0: 0.2, 4.0: 0.15},
            600,
        )
        for key, aps in values.items()
    )
    return Outcome(experiment, arms, data)


def test_the_table_has_ours_beside_the_paper_s(data: DataSet) -> None:
    values = {"h-detr": [40.0, 42.0, 44.0], "h-detr-ia-bce": [43.0, 45.0, 47.0]}
    text = markdown(outcome(data, "7", values))
    assert "| H-Deformable-DETR | 2 | 48.7 | +0.0 | 42.0 ± 2.0 | +0.0 [+0.0, +0.0] |" in text
    assert (
        "| H-Deformable-DETR w/ IA-BCE | 2 | 49.3 | +0.6 | 45.0 ± 2.0 | +3.0 [+3.0, +3.0] |"
    ) in text
    assert "| with IA-BCE > without | +0.6 | +3.0 [+3.0, +3.0] | holds |" in text
    assert "3 paired seeds" in text


def test_one_seed_has_no_interval_and_tells_nothing(data: DataSet) -> None:
    text = markdown(outcome(data, "7", {"h-detr": [40.0], "h-detr-ia-bce": [47.0]}))
    assert "| 47.0 | +7.0 |" in text
    assert "| +7.0 | cannot be told |" in text


def test_arms_without_a_small_version_have_the_paper_s_numbers_alone(data: DataSet) -> None:
    found = outcome(data, "2", {"dab-detr-r50": [5.0, 6.0], "align-dab-detr-r50": [7.0, 9.0]})
    text = markdown(found)
    assert "| DETR-R101 | - | 43.5 | +0.0 | - | - |" in text  # DAB-DETR-R101 has 43.5, too
    assert "| Align-DETR-DC5-R101 | - | 49.3 | +3.5 | - | - |" in text
    assert "compared with the baseline on theirs: DAB-DETR-DC5-R101, DAB-DETR-DC5-R50" in text
    assert "| Align-DETR > DN-DETR, DC5-R50 | +2.0 | - | not measured |" in text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"alpha-0.25": [9, 9.1], "alpha-0.5": [8, 8.1], "alpha-0.75": [7, 7.1]}, "holds"),
        ({"alpha-0.25": [9, 9.1], "alpha-0.5": [8, 8.1], "alpha-0.75": [8.5, 8.6]}, "fails"),
        ({"alpha-0.25": [9, 7], "alpha-0.5": [8, 8], "alpha-0.75": [7, 7]}, "cannot be told"),
        ({"alpha-0.25": [9, 9.1], "alpha-0.5": [8, 8.1]}, "not measured"),
    ],
)
def test_an_order_is_judged_by_its_neighbours(
    data: DataSet, values: dict[str, list[float]], expected: str
) -> None:
    found = outcome(data, "6a", values)
    assert found.judged(found.experiment.claims[0]) == expected


def test_a_claim_may_be_about_another_metric(data: DataSet) -> None:
    found = outcome(data, "fig1", {"focal": [1.0, 1.0], "ia-bce": [2.0, 2.0]})
    assert found.judged(found.experiment.claims[0]) == "not measured"
    assert found.judged(Claim(("ia-bce", "focal"), "AP")) == "holds"


def test_a_weight_at_the_end_of_the_grid_has_a_star(data: DataSet) -> None:
    found = outcome(data, "7", {"h-detr": [40.0], "h-detr-ia-bce": [47.0]})
    assert "star" not in markdown(found)
    edge = replace(found.arms[0], weight=4.0)
    text = markdown(replace(found, arms=(edge, found.arms[1])))
    assert "| 4* |" in text
    assert "star" in text


def test_the_metrics_of_an_analysis_are_flat_and_in_per_cent() -> None:
    found = misalignment.metrics_of(ANALYSIS)
    assert found["br_recall_1"] == pytest.approx(45)
    assert found["br_recall_1_within_0.02"] == pytest.approx(50)
    assert found["br_recall_1_within_0.05"] == pytest.approx(60)
    assert "br_recall_1_within_0" not in found
    assert found["pearson"] == pytest.approx(50)
    assert "spearman" not in found
    assert misalignment.metrics_of(NOTHING) == {}


def written(found: Outcome, out: Path) -> Outcome:
    """Return the outcome with places where the measured seeds have their files."""
    arms: list[ArmOutcome] = []
    for arm in found.arms:
        places = {seed: Place(out / place.folder) for seed, place in arm.places.items()}
        for seed in arm.by_seed:
            places[seed].write_measured(arm.config, Measured(metrics={}, analysis=ANALYSIS))
            places[seed].run.mkdir()
            (places[seed].run / METRICS_FILE).write_text(CURVE)
        arms.append(replace(arm, places=places))
    return replace(found, arms=tuple(arms))


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ("7", ("h-detr", "h-detr-ia-bce")),
        ("fig1", ("focal", "ia-bce")),
        ("fig4", ("focal", "align")),
        ("figA", ("dino", "align")),
    ],
)
@pytest.mark.parametrize("has_analysis", [False, True])
def test_every_outcome_has_a_picture(
    data: DataSet, tmp_path: Path, table: str, keys: tuple[str, ...], has_analysis: bool
) -> None:
    metrics = misalignment.metrics_of(ANALYSIS if has_analysis else NOTHING)
    found = outcome(data, table, {key: [50.0, 51.0, 52.5] for key in keys}, **metrics)
    if has_analysis:
        found = written(found, tmp_path)
    folder = write_report(found, tmp_path)
    name = f"{data.name}-{data.digest}"
    assert folder == tmp_path / "tables" / name / found.experiment.folder
    assert (folder / "picture.png").stat().st_size > 5000


def diverged(found: Outcome, *, arms: Collection[str]) -> Outcome:
    """Return the outcome without the first seed of all arms, and without any of some."""
    changed = [
        replace(
            arm,
            by_seed={
                seed: metrics
                for seed, metrics in arm.by_seed.items()
                if seed > 1 and arm.arm.key not in arms
            },
        )
        for arm in found.arms
    ]
    return replace(found, arms=tuple(changed))


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        ("7", ("h-detr", "h-detr-ia-bce")),  # dots
        ("fig1", ("focal", "ia-bce")),
        ("fig4", ("focal", "align")),
        ("figA", ("dino", "align")),
        ("figB", ("align",)),
    ],
)
@pytest.mark.parametrize("number_of_arms", [0, 1, 2])
def test_a_picture_leaves_out_what_has_diverged(
    data: DataSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: str,
    keys: tuple[str, ...],
    number_of_arms: int,
) -> None:
    drawn: list[Place] = []

    def draw_predictions(arm: ArmOutcome, _: object, file: Path) -> None:
        assert arm.first is not None
        drawn.append(arm.first)
        file.write_bytes(b"drawn" * 2000)

    monkeypatch.setattr(pictures, "draw_predictions", draw_predictions)
    metrics = misalignment.metrics_of(ANALYSIS)
    whole = outcome(data, table, {key: [50.0, 51.0, 52.5] for key in keys}, **metrics)
    found = written(diverged(whole, arms=keys[:number_of_arms]), tmp_path)
    folder = write_report(found, tmp_path)
    assert (folder / "picture.png").stat().st_size > 5000
    assert [place.folder.name for place in drawn] == (
        ["align-2"] if table == "figB" and number_of_arms == 0 else []
    )


def test_the_table_says_in_which_arithmetic(data: DataSet) -> None:
    found = outcome(data, "7", {"h-detr": [40.0], "h-detr-ia-bce": [47.0]})
    low = [replace(a, config=a.config.model_copy(update={"precision": "bf16"})) for a in found.arms]
    assert "600 steps in bf16, 1 paired seed." in markdown(replace(found, arms=tuple(low)))


def test_every_shown_metric_has_its_paired_difference(data: DataSet) -> None:
    found = outcome(data, "7", {"h-detr": [40.0, 42.0], "h-detr-ia-bce": [43.0, 45.0]})
    recall = {1: (50.0, 51.0), 2: (50.0, 51.0)}
    arms = [
        replace(
            arm,
            by_seed={
                seed: {
                    **metrics,
                    "AP75": metrics["AP"],
                    "br_recall_1": recall[seed][row],
                    "br_recall_1_within_0.02": recall[seed][row],
                    "br_recall_1_within_0.05": recall[seed][row],
                    "pearson": recall[seed][row],
                }
                for seed, metrics in arm.by_seed.items()
            },
        )
        for row, arm in enumerate(found.arms)
    ]
    text = markdown(replace(found, arms=tuple(arms)))
    assert (
        "| Δ [interval] | AP | AP75 | BR@N | BR@N within .02 | BR@N within .05 | Pearson |" in text
    )
    three, one = "+3.0 [+3.0, +3.0]", "+1.0 [+1.0, +1.0]"
    cells = [three, three, one, one, one, one]
    assert f"| H-Deformable-DETR w/ IA-BCE | {' | '.join(cells)} |" in text


def test_an_arm_alone_has_no_table_of_differences(data: DataSet) -> None:
    assert "interval]" not in markdown(outcome(data, "figB", {"align": [40.0, 42.0]}))


def test_reports_of_other_data_of_the_same_name_stay(data: DataSet, tmp_path: Path) -> None:
    found = outcome(data, "7", {"h-detr": [40.0], "h-detr-ia-bce": [47.0]})
    one = write_report(found, tmp_path)
    other = write_report(replace(found, data=replace(data, digest="other")), tmp_path)
    assert one != other
    assert (one / "table.md").is_file()
