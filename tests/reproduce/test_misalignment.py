"""What is kept of an analysis is what the whole one says, for intervals are none of it."""

from aligndetr.analyze.analysis import analyze
from aligndetr.reproduce.misalignment import Kept, analysis_of, metrics_of
from analysis_cases import NOTHING, random_case, truth


def test_numbers_do_not_depend_on_replicates() -> None:
    results, ground_truth = random_case(3)
    kept, whole = analysis_of(results, ground_truth), analyze(results, ground_truth)
    assert kept.br_recall == whole.misalignment.br_recall
    assert kept.br_recall_within == whole.misalignment.br_recall_within
    assert kept.pearson == whole.correlation.pearson
    assert kept.ap_cost == whole.ap_cost
    assert kept.density == tuple(map(tuple, whole.distributions.density.tolist()))
    assert Kept.model_validate_json(kept.model_dump_json()) == kept


def test_nothing_found_has_no_correlation() -> None:
    kept = analysis_of(NOTHING, truth([(1, 1, [0, 0, 10, 10])]))
    assert kept.pearson is None
    assert "pearson" not in metrics_of(kept)
