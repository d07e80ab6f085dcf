"""The paper's tables as data: names, numbers, and that its claims follow from its numbers."""

from itertools import pairwise

import pytest

from aligndetr.config.presets import get_preset
from aligndetr.config.schema import Config
from aligndetr.errors import ConfigError
from aligndetr.reproduce.catalogue import EXPERIMENTS, find
from aligndetr.reproduce.experiment import Arm, Claim, Experiment, numbers

ALL = list(EXPERIMENTS.values())


def named(words: list[str]) -> list[str]:
    return [experiment.name for experiment in find(words)]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], []),
        (["4"], ["4"]),
        (["b"], ["B"]),
        (["table-B", "Figure-1", "fig-a"], ["B", "fig1", "figA"]),
        (["6"], ["6a", "6b", "6c"]),
        (["6b", "6", "5", "5"], ["6b", "6a", "6c", "5"]),  # each once, in the order given
        (["all"], list(EXPERIMENTS)),
    ],
)
def test_experiments_are_found_by_name(words: list[str], names: list[str]) -> None:
    assert named(words) == names


@pytest.mark.parametrize("word", ["1", "9", "a", "fig2", ""])
def test_a_name_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"expected one or more of 2, 3, .*, found .*; name a"):
        find([word])


def test_the_paper_s_tables_and_figures_are_all_there() -> None:
    names = ["2", "3", "4", "5", "6a", "6b", "6c", "7", "8", "B", "fig1", "fig4", "figA", "figB"]
    assert sorted(EXPERIMENTS) == sorted(names)
    assert [len(EXPERIMENTS[name].arms) for name in names[:10]] == [24, 12, 7, 4, 4, 4, 4, 2, 5, 6]


@pytest.mark.parametrize("experiment", ALL, ids=lambda experiment: experiment.name)
def test_every_arm_resolves_and_has_a_key_of_its_own(experiment: Experiment) -> None:
    keys = [arm.key for arm in experiment.arms]
    assert len(set(keys)) == len(keys)
    assert experiment.baseline in keys
    for arm in experiment.arms:
        assert arm.config().name == get_preset(arm.preset).name


@pytest.mark.parametrize(
    ("table", "key", "expected"),
    [
        # From the text of the paper: a row of each table.
        ("2", "align-dab-detr-r50", numbers(46.0, 64.9, 49.5, 25.2, 50.5, 64.7)),
        ("2", "dn-detr-dc5-r101", numbers(47.3, 67.5, 50.8, 28.6, 51.5, 65.0)),
        ("2", "anchor-detr-r101", numbers(43.5, 64.3, 46.6, 23.2, 47.7, 61.4)),
        ("3", "faster-rcnn", numbers(42.0, 62.1, 45.5, 26.6, 45.5, 53.4)),
        ("3", "group-detr", {"AP": 49.8, "APs": 32.4, "APm": 53.0, "APl": 64.2}),
        ("3", "align-24", numbers(51.3, 68.2, 56.1, 35.5, 55.1, 65.6)),
        ("4", "focal", numbers(49.0, 66.0, 53.5)),
        ("4", "iou-branch*", numbers(49.0, 66.0, 54.0)),
        ("4", "iou-branch", numbers(49.2, 66.3, 53.5)),
        ("4", "qfl-2", numbers(47.6, 64.3, 51.8)),
        ("4", "qfl-1", numbers(48.6, 65.7, 53.5)),
        ("4", "vfl", numbers(48.7, 67.0, 52.3)),
        ("4", "ia-bce", numbers(50.0, 67.8, 54.4)),
        ("5", "ia-bce", numbers(50.0, 67.8, 54.2)),
        ("5", "mixed", numbers(49.1, 67.5, 53.4)),
        ("6a", "alpha-0.75", numbers(47.6)),
        ("6b", "k-4", numbers(50.2)),
        ("6c", "tau-9", numbers(49.7)),
        ("7", "h-detr-ia-bce", numbers(49.3, 67.2, 53.7)),
        ("8", "k-2-unweighted", numbers(49.6, 66.6, 53.8)),
        ("8", "k-3", numbers(50.2, 67.8, 54.4)),
        ("B", "focal", numbers(49.0, 66.6, 53.5)),
        ("B", "t-0", numbers(48.0, 67.6, 51.8)),
        ("fig1", "focal", {"br_recall_1": 45.0, "br_recall_2": 48.0}),
    ],
)
def test_the_numbers_are_the_paper_s(table: str, key: str, expected: dict[str, float]) -> None:
    assert EXPERIMENTS[table].arm(key).paper == expected


CLAIMS = [(experiment, claim) for experiment in ALL for claim in experiment.claims]


@pytest.mark.parametrize(("experiment", "claim"), CLAIMS)
def test_what_the_paper_claims_is_in_its_numbers(experiment: Experiment, claim: Claim) -> None:
    for better, worse in pairwise(claim.order):
        ours, theirs = (experiment.arm(key).paper.get(claim.metric) for key in (better, worse))
        if claim.metric == "AP":
            assert ours is not None
            assert theirs is not None
            assert ours > theirs


def test_rows_that_several_tables_have_are_one_configuration() -> None:
    def config(table: str, key: str) -> object:
        return EXPERIMENTS[table].arm(key).config()

    assert config("4", "focal") == config("5", "focal") == config("B", "focal")
    assert config("4", "ia-bce") == config("8", "k-1") == config("6b", "k-1")
    assert config("5", "align") == config("6a", "alpha-0.25") == config("6c", "tau-1.5")
    assert config("8", "k-3") == config("3", "align") == config("fig4", "align")
    assert config("8", "k-2") == config("6b", "k-2")


def test_the_variants_of_table_b_differ_in_their_weights_alone() -> None:
    def without_weights(arm: Arm) -> object:
        config = arm.config()
        assert isinstance(config, Config)
        loss = config.criterion.classification.model_dump(exclude={"w_pos", "w_neg"})
        return loss, config.model_dump(exclude={"criterion": {"classification"}})

    _, first, *others = EXPERIMENTS["B"].arms
    assert all(without_weights(arm) == without_weights(first) for arm in others)
    assert len({arm.label for arm in EXPERIMENTS["B"].arms}) == 6
