import json
import math

import pytest

from aligndetr.errors import DatasetError
from aligndetr.report.content import AnalysisRecord, read_analysis, to_record
from report.fakes import fake_analysis, without_numbers


def test_an_empty_analysis_and_one_of_nulls_are_the_same():
    assert to_record({}) == AnalysisRecord()
    assert to_record(without_numbers({"ap_cost": 1, "ap": None})) == AnalysisRecord()


def test_every_key_of_the_schema_is_read():
    analysis = fake_analysis()
    record = to_record(analysis)
    assert (record.ap.AP, record.ap_cost) == (analysis["ap"]["AP"], analysis["ap_cost"])
    assert record.by_class[0].oracle_ap is not None
    assert record.intervals.oracle_ap is not None
    assert record.worst[0].confident.label in ("RBC", "WBC", "Platelets")
    assert record.model_fields_set == set(AnalysisRecord.model_fields) - {"differences"}


def test_numbers_that_are_not_finite_are_not_known():
    record = to_record({"pearson": math.nan, "intervals": {"pearson": [None, None]}})
    assert record.pearson is None
    assert record.intervals.pearson is None


def test_a_value_of_another_kind_is_named():
    with pytest.raises(DatasetError, match=r"b\.json: expected an analysis, found at ap.AP: "):
        to_record({"ap": {"AP": "much"}}, "b.json")


def test_a_written_analysis_is_read(tmp_path):
    path = tmp_path / "analysis.json"
    path.write_text(json.dumps(fake_analysis()), encoding="utf-8")
    assert read_analysis(path)["images"] == 87


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ("[]", "found a list"),
        ('{"images": "many"}', "found at images"),
    ],
)
def test_a_file_that_is_no_analysis_is_refused(tmp_path, text, found):
    path = tmp_path / "analysis.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=found):
        read_analysis(path)
