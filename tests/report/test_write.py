import json

import pytest
from PIL import Image

from aligndetr.errors import CheckpointError, DatasetError
from aligndetr.report.history import read_history
from aligndetr.report.write import write_report
from report.browser import browser, executable
from report.fakes import (
    coco_like,
    compared,
    fake_analysis,
    fake_pictures,
    without_numbers,
    write_run,
)

FIGURES = {
    "recall.png",
    "iou_histograms.png",
    "density.png",
    "oracle_ap.png",
    "errors.png",
    "precision_recall.png",
    "calibration.png",
    "confusion.png",
}


@pytest.mark.parametrize("analysis", [{}, without_numbers(fake_analysis())])
def test_an_analysis_of_nothing_has_no_figures(tmp_path, analysis):
    path = write_report(analysis, tmp_path / "out")
    assert path == tmp_path / "out" / "report.html"
    assert {file.name for file in path.parent.iterdir()} == {"report.html", "analysis.json"}


def test_the_analysis_is_written_as_it_was(tmp_path):
    analysis = fake_analysis(("Blutplättchen", "\udce4"), worst=1)
    write_report(analysis, tmp_path)
    text = (tmp_path / "analysis.json").read_text(encoding="utf-8")
    assert json.loads(text) == analysis
    assert len(text.splitlines()) == len(analysis) + 2


def test_figures_are_there_and_show_something(tmp_path):
    write_report(fake_analysis(("a", "$b^$", "\N{CJK UNIFIED IDEOGRAPH-4E2D}")), tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == FIGURES
    for name in FIGURES:
        with Image.open(tmp_path / name) as figure:
            assert min(figure.size) > 400
            assert len(figure.convert("RGB").getcolors(2**24) or []) > 50, name


def test_figures_of_two_show_both(tmp_path):
    analysis, other = compared()
    write_report(analysis, tmp_path, comparison=other)
    more = {"iou_histograms_b.png", "density_b.png", "confusion_b.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == FIGURES | more


def test_figures_of_an_earlier_analysis_go_and_other_files_stay(tmp_path):
    analysis, other = compared()
    write_report(analysis, tmp_path, comparison=other)
    (tmp_path / "mine.png").write_bytes(b"")
    write_report(fake_analysis(), tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == FIGURES | {"mine.png"}
    write_report({}, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"mine.png"}


def test_a_figure_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "recall.png").mkdir()
    with pytest.raises(CheckpointError, match=r"recall\.png: expected a place to write to"):
        write_report(fake_analysis(), tmp_path)


def test_a_comparison_that_is_none_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DatasetError, match=r"comparison: expected an analysis, found at images"):
        write_report(fake_analysis(), tmp_path, comparison={"images": "many"})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"expected a place to write to"):
        write_report({}, tmp_path / "out")


@pytest.fixture(scope="module")
def chromium():
    program = executable()
    if program is None:
        pytest.skip("no Chromium or Chrome on this machine; install one to look at the page")
    with browser(program) as page:
        yield page


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Pages of a run, of COCO's size, of two detectors, and of nothing."""
    out = tmp_path_factory.mktemp("reports")
    run = fake_analysis()
    pictures = fake_pictures(run).get
    history = read_history(write_run(out / "run"))
    analysis, other = compared()
    return {
        "run": write_report(run, out / "a", pictures=pictures, training=history),
        "coco": write_report(coco_like(), out / "b", pictures=pictures),
        "compared": write_report(analysis, out / "c", comparison=other),
        "empty": write_report({}, out / "d"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(320, 640), (390, 844), (1280, 900)])
@pytest.mark.parametrize("name", ["run", "coco", "compared", "empty"])
def test_the_page_opens_without_a_complaint_at(chromium, reports, name, size, scheme, tmp_path):
    width, height = size
    chromium.open(reports[name], width=width, height=height, scheme=scheme)
    assert chromium.evaluate("document.documentElement.scrollWidth") == width
    chromium.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == size
        darkest, lightest = picture.convert("L").crop((0, 0, 4, 4)).getextrema()
    assert (darkest, lightest) == ((255, 255) if scheme == "light" else (21, 21))
    assert chromium.problems == []


@pytest.mark.slow
def test_the_page_of_coco_opens_within_a_second(chromium, reports):
    loads = []
    for _ in range(3):
        chromium.open(reports["coco"], width=1280, height=900)
        timing = "performance.getEntriesByType('navigation')[0].loadEventEnd"
        loads.append(chromium.evaluate(timing))
    assert min(loads) < 1000


@pytest.mark.slow
def test_a_click_on_a_heading_sorts(chromium, reports):
    chromium.open(reports["coco"], width=1280, height=900)
    script = """(() => {
        const table = [...document.querySelectorAll("table")].find(
            (one) => one.caption.textContent === "By class");
        const head = table.tHead.rows[0].cells[COLUMN];
        const values = () => [...table.tBodies[0].rows].map(
            (row) => row.cells[COLUMN].dataset.order);
        head.querySelector("button").click();
        const first = [head.getAttribute("aria-sort"), values()];
        head.querySelector("button").click();
        return [first, [head.getAttribute("aria-sort"), values()]];
    })()"""
    (direction, values), (back, reversed_values) = chromium.evaluate(script.replace("COLUMN", "2"))
    assert (direction, back) == ("descending", "ascending")
    numbers = [float(value) for value in values]
    assert numbers == sorted(numbers, reverse=True)
    assert [float(value) for value in reversed_values] == numbers[::-1]
    (direction, names), _ = chromium.evaluate(script.replace("COLUMN", "0"))
    assert direction == "ascending"
    assert names[0] == "dog"


@pytest.mark.slow
def test_a_class_can_be_picked_out_of_the_curves(chromium, reports):
    chromium.open(reports["run"], width=1280, height=900)
    shown = chromium.evaluate("""(() => {
        const picker = document.getElementById("curve-class");
        picker.value = "RBC";
        picker.dispatchEvent(new Event("change"));
        return [...document.querySelectorAll(".curve")].filter(
            (curve) => getComputedStyle(curve).display !== "none").map(
            (curve) => curve.dataset.class);
    })()""")
    assert shown == ["RBC", "RBC"]
