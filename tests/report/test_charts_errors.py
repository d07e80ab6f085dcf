"""Charts of errors, curves and calibration."""

import re

import pytest

from aligndetr.report.charts_errors import calibration_chart
from aligndetr.report.content import Calibration


def calibration(confidence: list[float]) -> Calibration:
    return Calibration.model_validate(
        {
            "counts": [2, 5],
            "confidence": confidence,
            "precision": [0.25, 0.75],
            "mean_iou": [0.5, 0.5],
        }
    )


def test_without_predictions_there_is_no_calibration():
    assert calibration_chart(Calibration(), None) is None


@pytest.mark.parametrize("confidence", [[-3.0, 40.0], [0.0, 1e200]])
def test_confidences_beyond_0_and_1_are_drawn_at_the_ends_and_told(confidence: list[float]):
    chart, ends = (str(calibration_chart(calibration(of), None)) for of in (confidence, [0.0, 1.0]))
    places = r'c[xy]="[^"]*"|points="[^"]*"| d="[^"]*"'
    assert re.findall(places, chart) == re.findall(places, ends) != []
    assert chart != ends
