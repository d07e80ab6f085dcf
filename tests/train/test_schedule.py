import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aligndetr.config.schema import CosineSchedule, StepSchedule
from aligndetr.train.schedule import factor, set_learning_rate


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, 1.0),
        (10 / 12, 1.0),
        (11 / 12, 0.1),  # the milestone itself is the first share of the lower rate
        (1.0, 0.1),
    ],
)
def test_the_default_drops_to_a_tenth_for_the_last_of_twelve_epochs(
    share: float, expected: float
) -> None:
    assert factor(StepSchedule(), share) == pytest.approx(expected)


def test_milestones_multiply() -> None:
    schedule = StepSchedule(milestones=(0.5, 0.75), factor=0.5)
    assert [factor(schedule, share) for share in (0.4, 0.5, 0.8)] == [1, 0.5, 0.25]


@pytest.mark.parametrize("schedule", [StepSchedule(warmup=0.1), CosineSchedule(warmup=0.1)])
def test_warmup_rises_linearly_from_zero(schedule: StepSchedule | CosineSchedule) -> None:
    assert [factor(schedule, share) for share in (0.0, 0.05, 0.1)] == pytest.approx([0, 0.5, 1])


def test_the_cosine_falls_from_one_over_its_middle_to_its_floor() -> None:
    schedule = CosineSchedule(floor=0.2, warmup=0.5)
    assert [factor(schedule, share) for share in (0.5, 0.75, 1.0)] == pytest.approx([1, 0.6, 0.2])


def test_a_training_of_warmup_alone_ends_at_the_full_rate() -> None:
    assert factor(CosineSchedule(warmup=1.0), 1.0) == 1


@given(
    share=st.floats(0, 1),
    schedule=st.one_of(
        st.builds(CosineSchedule, floor=st.floats(0, 1), warmup=st.floats(0, 1)),
        st.builds(StepSchedule, warmup=st.floats(0, 1)),
    ),
)
def test_the_rate_never_exceeds_its_start(
    share: float, schedule: StepSchedule | CosineSchedule
) -> None:
    assert 0 <= factor(schedule, share) <= 1


def test_every_group_keeps_its_own_rate() -> None:
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    set_learning_rate(optimizer, 0.5)
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.05]
