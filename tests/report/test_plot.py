import pytest

from aligndetr.report.plot import LABEL_GAP, Axis, Plot, round_axis, spread, unit_axis


@pytest.mark.parametrize(
    ("high", "ticks"),
    [
        (1.0, ["0", "0.25", "0.5", "0.75", "1"]),
        (11.3, ["0", "5", "10", "15"]),
        (0.0008, ["0", "0.0002", "0.0004", "0.0006", "0.0008"]),
        (0.0, ["0"]),  # nothing to show, but an axis nevertheless
    ],
)
def test_a_round_axis_holds_what_is_shown(high, ticks):
    axis = round_axis(high, "x")
    assert axis.high >= high
    assert axis.high > axis.low
    assert [label for _, label in axis.ticks][: len(ticks)] == ticks


def test_labels_move_apart_and_stay_within_their_ends():
    assert spread([], 0, 100) == []
    assert spread([50], 0, 100) == [50]
    apart = spread([50, 49, 48], 0, 100)
    assert apart == [50, 50 - LABEL_GAP, 50 - 2 * LABEL_GAP]
    assert spread([5, 4], 2, 100) == [2 + LABEL_GAP, 2]
    assert spread([120], 0, 100) == [100]


def test_a_plot_puts_the_origin_at_the_lower_left():
    plot = Plot(unit_axis("x"), unit_axis("y"), width=100, height=100, left=10, right=10)
    assert (plot.px(0), plot.px(1)) == (10, 90)
    assert plot.py(0) == 100 - plot.bottom
    assert plot.py(1) == plot.top


def test_an_axis_may_run_downwards():
    assert Axis(3, 0, ()).share(0) == 1
