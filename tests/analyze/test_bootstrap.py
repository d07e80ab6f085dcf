import numpy as np
import pytest

from aligndetr.analyze.bootstrap import draw, interval, number


def test_no_images_or_no_replicates_draw_nothing():
    assert draw(0, 3, seed=0).shape == (3, 0)
    assert draw(5, 0, seed=0).shape == (0, 5)


def test_each_replicate_has_as_many_images_as_the_data():
    weights = draw(20, 300, seed=1)
    assert weights.sum(axis=1).tolist() == [20] * 300
    assert weights.mean(axis=0) == pytest.approx(np.ones(20), abs=0.25)


def test_the_seed_decides():
    assert np.array_equal(draw(9, 4, seed=3), draw(9, 4, seed=3))
    assert not np.array_equal(draw(9, 4, seed=3), draw(9, 4, seed=4))


def test_an_interval_holds_95_of_100():
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert interval(np.array([2.0, np.nan])) == (2, 2)
    assert interval(np.array([np.nan])) is None
    assert interval(np.array([])) is None


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = interval(draw(400, 1000, seed=0) @ values / 400) or (0, 0)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.04)


def test_nan_is_no_number():
    assert number(np.array([np.nan])) is None
    assert number(np.array([0.5])) == 0.5
