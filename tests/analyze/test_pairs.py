import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from aligndetr.analyze.pairs import Pairs, match_pairs, pearson, spearman
from aligndetr.analyze.record import gather
from analysis_cases import NOTHING, by_image, found, iou, random_case, truth

FULL = [0.0, 0.0, 10.0, 10.0]
HALF = [0.0, 0.0, 10.0, 5.0]
FAR = [50.0, 50.0, 10.0, 10.0]


def pairs_of(scores: list[float], overlaps: list[float], images: list[int] | None = None) -> Pairs:
    count = np.arange(len(scores))
    rows = np.array(images or [0] * len(scores), np.int64)
    return Pairs(count, count, rows, np.array(scores, float), np.array(overlaps, float))


def ones(images: int = 1) -> np.ndarray:
    return np.ones((1, images), np.int32)


def best_total(overlaps: list[list[float]]) -> float:
    """Return the largest sum of IoU over all one-to-one assignments of rows to columns."""
    if len(overlaps) > len(overlaps[0]):
        overlaps = [list(column) for column in zip(*overlaps, strict=True)]
    return max(
        math.fsum(row[column] for row, column in zip(overlaps, columns, strict=True))
        for columns in itertools.permutations(range(len(overlaps[0])), len(overlaps))
    )


@pytest.mark.parametrize(
    ("results", "ground_truth"),
    [
        (NOTHING, truth([], images=0, classes=0)),
        (NOTHING, truth([(1, 1, FULL)])),
        (found((1, 1, 0.5, FULL)), truth([], crowds=[(1, 1, FULL)])),
        (found((1, 1, 0.5, FAR)), truth([(1, 1, FULL)])),  # IoU 0
    ],
)
def test_without_overlap_there_are_no_pairs(results, ground_truth):
    record = gather(results, ground_truth)
    pairs = match_pairs(record)
    assert len(pairs) == 0
    assert np.isnan(pearson(pairs, ones(len(record.image_ids)))).all()
    assert np.isnan(spearman(pairs, ones(len(record.image_ids)))).all()


def test_matching_is_one_to_one_of_any_class():
    rows = (1, 2, 0.9, FULL), (1, 1, 0.8, HALF), (1, 1, 0.7, FULL)
    pairs = match_pairs(gather(found(*rows), truth([(1, 1, FULL), (1, 1, HALF)])))
    assert pairs.objects.tolist() == [0, 1]
    assert pairs.predictions.tolist() == [0, 1]
    assert pairs.scores.tolist() == [0.9, 0.8]
    assert pairs.iou.tolist() == [1, 1]


def test_of_equal_boxes_the_most_confident_is_matched():
    rows = [(1, 1 + turn % 2, 0.1 * turn, FULL) for turn in range(1, 9)]
    (score,) = match_pairs(gather(found(*rows), truth([(1, 1, FULL)]))).scores
    assert score == pytest.approx(0.8)


@settings(max_examples=200)
@given(st.integers(0, 100_000), st.booleans())
def test_the_pairs_have_the_largest_total_iou(seed: int, ties: bool):
    results, ground_truth = random_case(seed, ties=ties)
    pairs = match_pairs(gather(results, ground_truth))
    assert len(set(pairs.objects.tolist())) == len(set(pairs.predictions.tolist())) == len(pairs)
    assert (pairs.iou > 0).all()
    for image, (objects, predictions) in enumerate(by_image(results, ground_truth)):
        if not objects or not predictions:
            continue
        overlaps = [[iou(box, place) for _, _, box in predictions] for _, place, _ in objects]
        small, large = sorted((len(objects), len(predictions)))
        if math.perm(large, small) <= 5000:
            found_total = pairs.iou[pairs.images == image].sum()
            assert found_total == pytest.approx(best_total(overlaps), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "overlaps"),
    [
        ([], []),
        ([0.5], [0.5]),  # one pair
        ([0.5, 0.5], [0.1, 0.9]),  # equal confidences
        ([0.1, 0.9], [0.7, 0.7]),  # equal IoUs
        ([0.1] * 3, [0.7] * 3),
    ],
)
def test_coefficients_do_not_exist_without_two_different_pairs(scores, overlaps):
    pairs = pairs_of(scores, overlaps)
    assert np.isnan(pearson(pairs, ones())).all()
    assert np.isnan(spearman(pairs, ones())).all()


@pytest.mark.parametrize("scale", [1e-6, 1e-200, 1e200])
def test_the_scale_of_confidences_does_not_matter(scale: float):
    scores, overlaps = [0.2, 0.9, 0.4, 0.7], [0.5, 0.8, 0.9, 0.6]
    expected = pearsonr(scores, overlaps).statistic  # pyright: ignore[reportAttributeAccessIssue]
    scaled = pairs_of([scale * score for score in scores], overlaps)
    assert pearson(scaled, ones()) == pytest.approx([expected])


def test_what_rounding_leaves_of_equal_confidences_is_no_difference():
    scores = [0.1 + 0.2, 0.3, 0.3]
    assert np.isnan(pearson(pairs_of(scores, [0.5, 0.8, 0.9]), ones())).all()


def test_boxes_too_small_for_an_area_overlap_nothing():
    tiny = [0.0, 0.0, 1e-170, 1e-170]
    assert len(match_pairs(gather(found((1, 1, 0.5, tiny)), truth([(1, 1, tiny)])))) == 0


def test_coefficients_by_hand():
    pairs = pairs_of([0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0])
    # Deviations -1/2, -1/2, 1/2, 1/2 and -3/4, 1/4, 1/4, 1/4: 1/2 / sqrt(1 * 3/4).
    assert pearson(pairs, ones())[0] == pytest.approx(0.5 / math.sqrt(0.75))
    rising = pairs_of([0.1, 0.2, 0.3], [0.1, 0.11, 0.9])
    assert spearman(rising, ones())[0] == pytest.approx(1)
    assert spearman(pairs_of([0.1, 0.2, 0.3], [0.9, 0.11, 0.1]), ones())[0] == pytest.approx(-1)


@settings(max_examples=100)
@given(st.integers(0, 100_000), st.booleans())
def test_weighted_coefficients_are_scipys_on_copied_pairs(seed: int, ties: bool):
    random = np.random.default_rng(seed)
    count, images = int(random.integers(3, 40)), 5
    scores, overlaps = random.uniform(0, 1, (2, count))
    if ties:
        scores, overlaps = scores.round(1), overlaps.round(1)
    pairs = pairs_of(scores.tolist(), overlaps.tolist(), random.integers(0, images, count).tolist())
    weights = random.integers(0, 4, (3, images)).astype(np.int32)
    for row, ours, theirs in zip(
        weights, pearson(pairs, weights), spearman(pairs, weights), strict=True
    ):
        x, y = (np.repeat(values, row[pairs.images]) for values in (pairs.scores, pairs.iou))
        if len(set(x)) < 2 or len(set(y)) < 2:
            assert np.isnan(ours)
            assert np.isnan(theirs)
        else:
            assert ours == pytest.approx(pearsonr(x, y)[0], abs=1e-9)
            assert theirs == pytest.approx(spearmanr(x, y)[0], abs=1e-9)
