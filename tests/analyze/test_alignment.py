import pytest

from aligndetr.analyze.alignment import alignment
from aligndetr.analyze.analysis import Settings, analyze
from analysis_cases import NOTHING, random_case, truth


def test_without_objects_there_is_nothing_to_measure():
    assert alignment(NOTHING, truth([])) == {"br_recall_1": None, "pearson": None}


@pytest.mark.parametrize("seed", range(5))
def test_it_says_what_the_whole_analysis_says(seed: int):
    results, ground_truth = random_case(seed)
    content = analyze(results, ground_truth, settings=Settings(replicates=2)).to_json()
    recalls = content["br_recall"]
    assert isinstance(recalls, dict)
    expected = {"br_recall_1": recalls["1"], "pearson": content["pearson"]}
    assert alignment(results, ground_truth) == expected
