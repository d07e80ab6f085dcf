import re

import pytest

from aligndetr.report.content import to_record
from aligndetr.report.history import read_history
from aligndetr.report.page import page
from aligndetr.report.words import UNKNOWN
from report.documents import Document
from report.fakes import (
    BLOOD,
    coco_like,
    compared,
    fake_analysis,
    fake_pictures,
    without_numbers,
    write_run,
)

EVERY_SECTION = (
    "How often the best box is kept",
    "The boxes it trusts, and the boxes it has",
    "Confidence against IoU",
    "What the order costs",
    "Where AP50 is lost",
    "By size and by class",
    "Precision over recall",
    "What is taken for what",
    "Is it as right as it is sure",
    "Good boxes that were not trusted",
    "What the words mean",
)


def read(analysis, comparison=None, **more) -> Document:
    other = None if comparison is None else to_record(comparison)
    text = page(to_record(analysis), other=other, **more)
    assert "http://" not in text
    assert "https://" not in text
    document = Document(text)
    assert document.complaints == []
    foreign = [x for x in document.loaded if not x.startswith(("#", "data:image/jpeg;base64,"))]
    assert foreign == []
    links = {link[1:] for link in document.loaded if link.startswith("#")}
    assert links <= set(document.ids)
    return document


def test_an_empty_analysis_says_that_there_is_nothing():
    document = read({})
    assert "There is nothing to show yet." in document.text
    assert "nav" not in document.tags


def test_an_analysis_of_nulls_has_headlines_without_numbers():
    document = read({**without_numbers(fake_analysis()), "images": 0})
    assert document.text.count("Nothing to measure it on.") == 3
    assert "nan" not in document.text.lower()
    assert "None" not in document.text


def test_parts_with_null_in_them_are_shown_without_it():
    analysis = fake_analysis()
    for one in analysis["by_class"]:
        one.update(pearson=None, ap_cost=None, intervals=None)
    analysis["curves"][0]["precision"] = {"0.5": None, "0.75": [None] * 101}
    analysis["worst"][0]["confident"] = {"bbox": [1, 2, 3, 4], "score": None, "class": "RBC"}
    analysis["br_recall"] = {"1": 0.5, "2": None}
    document = read(analysis)
    (table,) = [table for table in document.tables if table.caption == "By class"]
    assert "Pearson" not in table.rows[0]  # a column of nothing is left out
    assert table.rows[1][0] == "Platelets"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.75, "follows the IoU of matched boxes closely"),
        (0.0, "not at all"),
        (-0.05, "not at all"),
        (-0.9, "Confidence runs against the IoU of matched boxes"),
    ],
)
def test_pearson_is_put_in_words(value: float, words: str):
    assert words in read({**fake_analysis(), "pearson": value}).text


def test_a_full_report_has_every_section_and_its_headline_numbers():
    analysis = fake_analysis()
    text = read(analysis).text
    for heading in EVERY_SECTION:
        assert heading in text
    assert f"Misalignment costs this detector {100 * analysis['ap_cost']:.1f} AP" in text
    for number in (analysis["ap"]["AP"], analysis["oracle_ap"]["AP"], analysis["br_recall"]["1"]):
        assert f"{100 * number:.1f}" in text
    assert f"{analysis['pearson']:.2f}" in text
    for low, high in (analysis["intervals"]["AP"], analysis["intervals"]["oracle_AP"]):
        assert f"{100 * low:.1f} to {100 * high:.1f}" in text
    low, high = analysis["intervals"]["br_recall"]["1"]
    assert f"{100 * low:.1f} to {100 * high:.1f}" in text
    low, high = analysis["intervals"]["pearson"]
    assert f"{low:.2f} to {high:.2f}" in text


@pytest.mark.parametrize(
    ("cost", "sentence"),
    [
        (0.068, "Misalignment costs this detector 6.8 AP"),
        (0.0, "Misalignment costs this detector no AP"),
        (-0.01, "Misalignment costs this detector no AP"),
        (None, "What this detector finds"),
    ],
)
def test_the_title_says_what_was_found(cost, sentence):
    assert sentence in read({**fake_analysis(), "ap_cost": cost}).text


def test_tables_have_a_row_for_every_class_and_size():
    tables = {table.caption: table.rows for table in read(fake_analysis()).tables}
    assert [row[0] for row in tables["By class"][1:]] == list(BLOOD)
    assert [row[0] for row in tables["By size of the objects"][1:]] == ["small", "medium", "large"]
    assert tables["By class"][0][:4] == ["class", "objects", "AP", "best order"]
    assert len(tables["Errors"]) == 1 + 8
    assert len(tables["Calibration"]) == 1 + 10
    assert len(tables["Boxes by IoU"]) == 1 + 20
    recalls = tables["Recall of best-regressed boxes"]
    assert recalls[0][1:] == ["N", "2N", "3N", "4N", "5N"]
    assert [row[0] for row in recalls[1:]] == [
        "the best itself",
        "within 0.02 IoU",
        "within 0.05 IoU",
        "best IoU in reach",
    ]


def test_the_table_of_pairs_counts_each_once():
    analysis = fake_analysis()
    (table,) = [t for t in read(analysis).tables if t.caption == "Matched pairs by confidence"]
    assert len(table.rows) == 1 + 10
    pairs = sum(int(row[1].replace(",", "")) for row in table.rows[1:])
    assert pairs == analysis["matched_pairs"]


def test_eighty_classes_stay_small():
    text = page(to_record(coco_like()))
    assert len(text) < 2_000_000
    (table,) = [table for table in Document(text).tables if table.caption == "By class"]
    assert len(table.rows) == 81


def test_names_cannot_break_out():
    evil = '"><script>alert(1)</script><img src="http:bad">'
    analysis = fake_analysis((evil, "a & b", "it's"), title=evil)
    analysis["worst"][0]["file_name"] = evil
    document = read(analysis)
    assert document.tags.count("script") == 1
    assert "img" not in document.tags
    assert evil in document.text


def test_a_dollar_in_a_name_is_no_placeholder():
    assert "$title ${style}" in read(fake_analysis(title="$title ${style}")).text


def test_a_comparison_has_both_and_the_doubt():
    analysis, other = compared()
    document = read(analysis, other)
    assert "runs/align" in document.text
    assert "runs/focal" in document.text
    assert re.search(r"A is \d\.\d AP (above|below) B", document.text)
    assert document.text.count("its interval is not known") == 1  # AP in the best order
    assert "clear" in document.text
    assert "may be chance" in document.text
    (table,) = [table for table in document.tables if table.caption == "By class"]
    assert table.rows[0][2:5] == ["A: AP", "B: AP", "A \N{MINUS SIGN} B: AP"]


def test_a_comparison_without_intervals_says_so():
    document = read(fake_analysis(), fake_analysis(seed=3))
    assert document.text.count("its interval is not known") == 4


def test_classes_that_only_one_has_are_compared_with_nothing():
    document = read(fake_analysis(("RBC", "new")), fake_analysis(("RBC", "old")))
    (table,) = [table for table in document.tables if table.caption == "By class"]
    assert [row[0] for row in table.rows[1:]] == ["RBC", "new"]
    assert table.rows[2][3:5] == [UNKNOWN, UNKNOWN]


def test_the_gallery_shows_pictures_once_and_boxes_twice():
    analysis = fake_analysis(worst=3)
    document = read(analysis, pictures=fake_pictures(analysis).get)
    assert document.tags.count("image") == 3
    assert document.tags.count("use") == 3
    assert "are missing" not in document.text


def test_the_gallery_says_which_pictures_are_missing():
    analysis = fake_analysis(worst=3)
    pictures = fake_pictures(analysis)
    for one in analysis["worst"][1:]:
        del pictures[one["image_id"]]
    document = read(analysis, pictures=pictures.get)
    assert "The pictures of 2 of these 3 objects are missing" in document.text
    assert document.tags.count("image") == 1
    assert "No pictures were given" in read(analysis).text


def test_a_training_has_its_losses_by_layer(tmp_path):
    history = read_history(write_run(tmp_path / "run"))
    document = read({"title": "runs/demo"}, history=history)
    assert "What this training did" in document.text
    for text in ("class loss", "GIoU loss of boxes", "denoising: L1 loss of boxes", "layer 6"):
        assert text in document.text
    assert "Step 240" in document.text
    (table,) = document.tables
    assert table.rows[0] == ["step", "epoch", "AP", "AP50", "AP75", "BR recall", "Pearson"]
    assert len(table.rows) == 1 + 12


def test_a_training_of_regions_has_panels_of_its_own(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"event": "train", "step": 4, "epoch": 0, "loss": 2, "learning_rate": 1e-4, '
        '"proposals.box": 0.5, "regions.class": 1.5}\n',
        encoding="utf-8",
    )
    text = read({}, history=read_history(tmp_path)).text
    assert "proposals: box loss" in text
    assert "regions: class loss" in text
