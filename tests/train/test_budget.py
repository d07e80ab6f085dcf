import pytest

from aligndetr.errors import ConfigError
from aligndetr.train.budget import PACE_STEPS, Budget, Pace


def test_progress_counts_epochs_with_their_fraction() -> None:
    budget = Budget(epochs=4)
    assert budget.progress(0, 0.0, 0.0) == 0
    assert budget.progress(123, 1.5, 1e9) == 1.5 / 4
    assert budget.progress(123, 4.0, 0.0) == 1


def test_progress_counts_steps() -> None:
    assert Budget(steps=10).progress(5, 99.0, 1e9) == 0.5
    assert Budget(steps=10).progress(11, 0.0, 0.0) == 1


def test_minutes_run_from_the_first_step_to_the_last_evaluation() -> None:
    budget = Budget(minutes=3, reserve_seconds=10).began(20.0, closing_seconds=50.0)
    assert budget.progress(0, 0.0, 20.0) == 0
    assert budget.progress(0, 0.0, 70.0) == 0.5
    assert budget.progress(0, 0.0, 120.0) == 1
    assert budget.training_seconds == 100


def test_progress_stays_in_the_unit_interval() -> None:
    budget = Budget(minutes=1).began(10.0, closing_seconds=0.0)
    assert budget.progress(0, 0.0, 0.0) == 0
    assert budget.progress(0, 0.0, 1e9) == 1


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ({}, "found none"),
        ({"epochs": 1, "minutes": 2}, "found epochs=1 and minutes=2"),
        ({"steps": 0}, "found steps=0"),
    ],
)
def test_a_budget_is_one_positive_number(limits: dict[str, int], found: str) -> None:
    with pytest.raises(ConfigError, match="expected one positive number of epochs, steps") as error:
        Budget(**limits)
    assert found in str(error.value)
    assert "\n" not in str(error.value)


def test_a_budget_that_leaves_no_time_is_refused_with_one_that_would() -> None:
    with pytest.raises(ConfigError, match=r"--minutes 0\.5: .* 25 s have passed and 5 s are") as e:
        Budget(minutes=0.5).began(25.0, closing_seconds=5.0)
    assert "give at least 1.0 minutes" in str(e.value)


def test_only_minutes_have_seconds() -> None:
    with pytest.raises(ValueError, match="only a budget in minutes"):
        _ = Budget(epochs=1).training_seconds


def test_the_pace_is_unchanged_until_the_first_steps_are_known() -> None:
    pace = Pace()
    assert pace.slowdown == 1
    for seconds in range(PACE_STEPS - 1):
        pace.add(float(seconds))
    assert pace.slowdown == 1


@pytest.mark.parametrize(
    ("later", "slowdown"),
    [
        ([9.0], 1),  # a single slow step
        ([9.0, 2.0, 4.0], 1),
        (3 * [3.0] + 4 * [4.0], 2),
        (PACE_STEPS * [1.0], 1),  # faster is no gain
    ],
)
def test_steps_that_become_slower_are_noticed(later: list[float], slowdown: float) -> None:
    pace = Pace()
    for seconds in [50.0, *(PACE_STEPS - 1) * [2.0], *later]:  # the first one compiles
        pace.add(seconds)
    assert pace.slowdown == slowdown
    pace.restart()
    assert pace.slowdown == 1
