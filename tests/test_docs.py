"""The code of the documentation runs as it is printed there."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def python_of(page: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)
    assert blocks, page
    return "\n".join(blocks)


def test_the_criterion_works_in_five_lines() -> None:
    names: dict[str, object] = {}
    exec(compile(python_of("your-own-detr.md"), "docs/your-own-detr.md", "exec"), names)

    losses = names["losses"]
    assert isinstance(losses, dict)
    assert {"loss_class", "loss_bbox_4", "loss_giou_0"} <= set(losses)
    assert len(losses) == 18


def test_every_loss_and_cost_has_its_row() -> None:
    from aligndetr.config.kinds import kinds_in, tag
    from aligndetr.losses.classification import ClassificationLoss
    from aligndetr.losses.costs import AnyScoreCost

    text = (DOCS / "method.md").read_text()
    for kind in (*kinds_in(ClassificationLoss), *kinds_in(AnyScoreCost)):
        assert f"| `{tag(kind)}` |" in text


def test_every_preset_is_on_its_page() -> None:
    from aligndetr.config.presets import PRESETS

    text = (DOCS / "presets.md").read_text()
    for name in PRESETS:
        is_whole = name.endswith(("-released", "-lite", "-small", "-tiny"))
        plain = name if is_whole else name.removeprefix("align-")
        assert f"`{plain}`" in text


def test_any_configuration_can_be_aligned() -> None:
    names: dict[str, object] = {}
    exec(compile(python_of("presets.md"), "docs/presets.md", "exec"), names)
    assert getattr(names["config"], "name", None) == "align-dn-detr-r50"


def test_the_analysis_of_two_boxes_works(capsys) -> None:
    exec(compile(python_of("analyze.md"), "docs/analyze.md", "exec"), {})
    assert capsys.readouterr().out.startswith("(0.0, 1.0, 1.0, 1.0, 1.0) 0.")
