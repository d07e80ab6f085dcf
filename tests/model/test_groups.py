import pytest
import torch

from aligndetr.model.groups import Layout, Span, attention_mask, last_row
from aligndetr.types import QueryGroup

CPU = torch.device("cpu")


def test_one_group_needs_no_mask():
    assert attention_mask([QueryGroup("main", (0, 5))], CPU) is None


def test_denoising_blocks_see_themselves_and_the_main_group():
    groups = [
        QueryGroup("denoising", (0, 4), blocks=2, sees_main=True),
        QueryGroup("main", (4, 6)),
    ]
    mask = attention_mask(groups, CPU)
    assert mask is not None
    visible = [
        [1, 1, 0, 0, 1, 1],  # block 0
        [1, 1, 0, 0, 1, 1],
        [0, 0, 1, 1, 1, 1],  # block 1
        [0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 1],  # main queries see no denoising query
        [0, 0, 0, 0, 1, 1],
    ]
    assert torch.equal(~mask, torch.tensor(visible, dtype=torch.bool))


def test_groups_that_do_not_see_main_are_blocked_both_ways():
    groups = [QueryGroup("main", (0, 2)), QueryGroup("extra", (2, 5))]
    mask = attention_mask(groups, CPU)
    assert mask is not None
    assert mask[:2, 2:].all()
    assert mask[2:, :2].all()
    assert not mask[:2, :2].any()
    assert not mask[2:, 2:].any()


def test_extra_groups_are_blind_to_all_but_themselves():
    mask = attention_mask(Layout(2, groups=2, extra=2).here(training=True), CPU)
    assert mask is not None
    own = torch.block_diag(*[torch.ones(2, 2)] * 3).bool()
    assert torch.equal(~mask, own)


def test_every_query_sees_itself():
    groups = (
        QueryGroup("denoising", (0, 6), blocks=3, sees_main=True),
        QueryGroup("main", (6, 10)),
        QueryGroup("extra", (10, 16), blocks=2),
    )
    mask = attention_mask(groups, CPU)
    assert mask is not None
    assert not mask.diagonal().any()


# How many queries there are


def test_a_layout_of_main_queries_alone_is_one_group_in_both_modes():
    layout = Layout(5)
    assert layout.rows == 5
    for is_training in (True, False):
        assert layout.here(training=is_training) == (QueryGroup("main", (0, 5)),)


def test_extra_queries_are_one_run_of_blocks_in_training_alone():
    layout = Layout(5, groups=3, extra=2, copies=4, weight=0.5)
    main = QueryGroup("main", (0, 5))
    extra = QueryGroup("extra", (5, 11), copies=12, weight=0.5, blocks=3)
    assert layout.rows == last_row((main, extra)) == 11
    assert layout.here(training=True) == (main, extra)
    assert layout.here(training=False) == (main,)


def listed(spans: tuple[Span, ...]) -> list[int]:
    return [number for start, end in spans for number in range(start, end)]


@pytest.mark.parametrize(
    ("proposals", "tokens", "ranks", "rows"),
    [
        # of a layout of 3 main queries and 2 groups of 2, with as many tokens:
        ("next", 20, [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6]),
        ("same", 20, [0, 1, 2, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6]),
        ("next", 6, [0, 1, 2, 3, 4], [0, 1, 2, 3, 5]),  # one is left for each group
        ("next", 3, [0, 1, 2], [0, 1, 2]),
        ("next", 2, [0, 1], [0, 1]),
        ("same", 2, [0, 1, 0, 1, 0, 1], [0, 1, 3, 4, 5, 6]),
        ("same", 1, [0, 0, 0], [0, 3, 5]),
    ],
)
def test_proposals_are_shared_out_as_far_as_they_go(proposals, tokens: int, ranks, rows):
    layout = Layout(3, groups=2, extra=2, copies=2, proposals=proposals)
    taken = layout.take(tokens, training=True)
    assert (listed(taken.ranks), listed(taken.rows)) == (ranks, rows)
    assert last_row(taken.groups) == len(ranks)
    assert taken.groups[0].span == (0, min(3, tokens))
    for extra in taken.groups[1:]:
        assert (extra.blocks, extra.copies) == (2, 4)
        assert extra.span == (min(3, tokens), len(ranks))


def test_evaluation_takes_the_best_proposals_for_main_queries_alone():
    taken = Layout(3, groups=2, extra=2).take(20, training=False)
    assert taken.ranks == taken.rows == ((0, 3),)
    assert taken.groups == (QueryGroup("main", (0, 3)),)
