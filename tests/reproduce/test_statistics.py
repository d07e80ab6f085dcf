"""What a few seeds can tell, with hand-computed intervals."""

import pytest

from aligndetr.reproduce.statistics import (
    BySeed,
    Difference,
    Summary,
    Verdict,
    chain_verdict,
    difference,
    summary,
    verdict,
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({1: 5.0}, Summary(5.0, None, 1)),
        ({1: 1.0, 2: 2.0, 3: 3.0}, Summary(2.0, 1.0, 3)),
    ],
)
def test_a_summary_has_a_deviation_from_two_seeds_on(
    values: BySeed, expected: Summary | None
) -> None:
    assert summary(values) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ({}, {}, None),
        ({1: 2.0}, {2: 1.0}, None),  # no seed in common
        ({1: 2.0}, {1: 1.0}, Difference(1.0, None, None, 1)),  # one seed has no interval
        ({1: 2.0, 2: 9.0}, {1: 1.0}, Difference(1.0, None, None, 1)),  # only what is paired
        ({1: 4.0, 2: 5.0}, {1: 3.0, 2: 4.0}, Difference(1.0, 1.0, 1.0, 2)),  # no spread
    ],
)
def test_differences_are_paired_by_seed(
    ours: BySeed, theirs: BySeed, expected: Difference | None
) -> None:
    assert difference(ours, theirs) == expected


def test_the_interval_is_student_s() -> None:
    found = difference({1: 11.0, 2: 12.0, 3: 13.0}, {1: 10.0, 2: 10.0, 3: 10.0})
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    reach = 4.30265 * 1.0 / 3**0.5  # t at .975 with two degrees, deviation 1, three pairs
    assert (found.mean, found.seeds) == (2.0, 3)
    assert found.low == pytest.approx(2.0 - reach, abs=1e-4)
    assert found.high == pytest.approx(2.0 + reach, abs=1e-4)


@pytest.mark.parametrize(
    ("better", "expected"),
    [
        (None, "not measured"),
        (Difference(5.0, None, None, 1), "cannot be told"),  # one seed, however large
        (Difference(1.0, 0.1, 1.9, 3), "holds"),
        (Difference(-1.0, -1.9, -0.1, 3), "fails"),
        (Difference(1.0, -0.1, 2.1, 3), "cannot be told"),
        (Difference(0.0, 0.0, 0.0, 3), "cannot be told"),  # a tie
        (Difference(1.0, 0.0, 2.0, 3), "cannot be told"),  # 0 is in the interval
        (Difference(1.0, 1.0, 1.0, 2), "holds"),  # all seeds agree to the last digit
    ],
)
def test_a_verdict_needs_an_interval_without_zero(
    better: Difference | None, expected: Verdict
) -> None:
    assert verdict(better) == expected


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["holds"], "holds"),
        (["holds", "holds"], "holds"),
        (["holds", "cannot be told"], "cannot be told"),
        (["cannot be told", "fails", "holds"], "fails"),
        (["fails", "not measured"], "not measured"),
    ],
)
def test_an_order_holds_where_all_of_its_neighbours_do(
    pairs: list[Verdict], expected: Verdict
) -> None:
    assert chain_verdict(pairs) == expected
