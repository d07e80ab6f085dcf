import torch

from aligndetr.model.groups import attention_mask
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
