from aligndetr.report.markup import NOTHING, Markup, join, tag


def test_an_element_without_attributes_and_children_is_closed():
    assert tag("g", {}) == "<g></g>"
    assert tag("br", {}) == "<br>"


def test_text_and_attributes_are_escaped_and_markup_is_not():
    inner = tag("b", {}, "a < b & c")
    assert inner == "<b>a &lt; b &amp; c</b>"
    assert tag("p", {"title": '"<script>'}, inner, "'") == (
        '<p title="&quot;&lt;script&gt;"><b>a &lt; b &amp; c</b>&#x27;</p>'
    )


def test_attributes_that_are_none_are_left_out_and_numbers_are_short():
    assert tag("rect", {"x": 1.0, "y": 0.333, "class": None}) == '<rect x="1" y="0.3"></rect>'


def test_what_utf_8_cannot_hold_is_replaced():
    assert join(["\udce4.jpg"]) == "?.jpg"
    assert isinstance(join([]), Markup)
    assert join([]) == NOTHING
