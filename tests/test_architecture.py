"""The house rules that a program can check: who may import whom, and how large things may get.

Every rule is a function from source to complaints, tried on small bad sources before the house.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from textwrap import dedent

import pytest

HOUSE = Path(__file__).parent.parent / "src" / "aligndetr"

FLOORS = (
    {"errors", "settings", "boxes", "drawing"},
    {"types", "kernels", "devices", "precision"},
    {"layers"},
    {"losses", "data"},
    {"config", "backbones"},
    {"regions"},
    {"model"},
    {"predict", "pictures", "checkpoint", "evaluate"},
    {"analyze"},
    {"train", "convert", "export", "integrations"},
    {"autoconfig", "run_folder"},
    {"runs", "report", "cost"},
    {"api", "tables"},
    {"reproduce"},
    {"verbs"},
    {"cli", "demo"},
    {"__init__", "__main__"},
)
"""The rooms from the ground up; each imports only from floors below its own."""
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
NEIGHBOURS = {"predict", "pictures", "checkpoint", "evaluate"}
"""Rooms of one floor that may use each other, without circles."""

LONGEST_FILE = 400
LONGEST_BODY = 60
MOST_PARAMETERS = 9
WIDE = {("verbs/training.py", "train"), ("runs.py", "train"), ("verbs/reproducing.py", "reproduce")}
"""Functions with one parameter for every option of a command."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def room_of(file: str) -> str:
    """Return the room of a file, given by its path below the house."""
    return Path(file).parts[0].removesuffix(".py")


def imported_rooms(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and room of every import of the house, also those for the type checker."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "aligndetr":
                    yield node.lineno, [*alias.name.split("."), "__init__"][1]
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")
            if node.level:
                yield node.lineno, "a relative import"
            elif module[0] == "aligndetr" and len(module) > 1:
                yield node.lineno, module[1]
            elif module[0] == "aligndetr":
                names = {alias.name for alias in node.names} - {"__version__"}
                yield from ((node.lineno, n if n in FLOOR_OF else "__init__") for n in names)


def import_complaints(file: str, source: str) -> list[str]:
    room = room_of(file)
    if room not in FLOOR_OF:
        return [f"{file}: the room {room} stands on no floor of this test"]
    complaints: list[str] = []
    for line, other in imported_rooms(source):
        if other == room or {room, other} <= NEIGHBOURS:
            continue
        if other not in FLOOR_OF:
            complaints.append(f"{file}:{line}: imports {other}, which stands on no floor")
        elif FLOOR_OF[other] >= FLOOR_OF[room]:
            complaints.append(f"{file}:{line}: {room} imports {other}, which is not below it")
    return complaints


def circle_complaints(files: dict[str, str]) -> list[str]:
    rooms: dict[str, set[str]] = {}
    for file, source in files.items():
        room = room_of(file)
        others = {other for _, other in imported_rooms(source)} - {room}
        rooms.setdefault(room, set()).update(others)
    try:
        TopologicalSorter(rooms).prepare()
    except CycleError as error:
        return ["a circle: " + " <- ".join(error.args[1])]
    return []


def functions(source: str) -> Iterator[tuple[Function, bool]]:
    """Yield every function, and whether its first parameter is self or cls."""
    tree = ast.parse(source)
    methods = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for child in node.body
        if isinstance(child, Function)
        and not any(
            isinstance(d, ast.Name) and d.id == "staticmethod" for d in child.decorator_list
        )
    }
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node, node in methods


def parameters(function: Function, is_method: bool) -> list[ast.arg]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args][int(is_method) :]
    starred = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    return [*named, *arguments.kwonlyargs, *starred]


def body_lines(function: Function) -> int:
    """Return the lines from the first statement after the docstring to the last."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def size_complaints(file: str, source: str) -> list[str]:
    complaints: list[str] = []
    if (lines := len(source.splitlines())) > LONGEST_FILE:
        complaints.append(f"{file}: {lines} lines, {LONGEST_FILE} are the end")
    for function, is_method in functions(source):
        where = f"{file}:{function.lineno}: {function.name}"
        if (lines := body_lines(function)) > LONGEST_BODY:
            complaints.append(f"{where}: {lines} lines, {LONGEST_BODY} are the end")
        count = len(parameters(function, is_method))
        if count > MOST_PARAMETERS and (file, function.name) not in WIDE:
            complaints.append(f"{where}: {count} parameters, {MOST_PARAMETERS} are the end")
    return complaints


def annotation_complaints(file: str, source: str) -> list[str]:
    complaints: list[str] = []
    for function, is_method in functions(source):
        where = f"{file}:{function.lineno}: {function.name}"
        complaints += [
            f"{where}: {parameter.arg} has no annotation"
            for parameter in parameters(function, is_method)
            if parameter.annotation is None
        ]
        if function.returns is None:
            complaints.append(f"{where}: the result has no annotation")
    return complaints


def habit_complaints(file: str, source: str) -> list[str]:
    tree = ast.parse(source)
    complaints = [] if ast.get_docstring(tree) else [f"{file}: has no docstring"]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr == "cuda":
            complaints.append(f"{file}:{node.lineno}: .cuda() binds the code to one device")
        if isinstance(called, ast.Name) and called.id == "print" and file != "cli.py":
            complaints.append(f"{file}:{node.lineno}: print() outside the command line")
    return complaints


# The rules can fail


@pytest.mark.parametrize(
    ("file", "source", "complaints"),
    [
        ("boxes.py", "", []),
        ("boxes.py", "import torch\nfrom os.path import join", []),
        ("losses/box.py", "from aligndetr.boxes import iou\nimport aligndetr.losses.prime", []),
        ("types.py", "from aligndetr import boxes", []),
        ("cli.py", "from aligndetr import __version__", []),
        ("checkpoint.py", "from aligndetr.predict import x", []),  # neighbours
        (
            "losses/box.py",  # upward
            "import math\nfrom aligndetr.model.decoder import Decoder",
            ["losses/box.py:2: losses imports model, which is not below it"],
        ),
        (
            "losses/box.py",  # sideways
            "import aligndetr.data",
            ["losses/box.py:1: losses imports data, which is not below it"],
        ),
        (
            "boxes.py",  # for the type checker only, and inside a function
            "if TYPE_CHECKING:\n    from aligndetr import types\n"
            "def f():\n    import aligndetr.api",
            [
                "boxes.py:2: boxes imports types, which is not below it",
                "boxes.py:4: boxes imports api, which is not below it",
            ],
        ),
        (
            "evaluate/evaluator.py",  # neighbours only of each other
            "from aligndetr.train import loop",
            ["evaluate/evaluator.py:1: evaluate imports train, which is not below it"],
        ),
        (
            "train/loop.py",
            "import aligndetr\nfrom aligndetr import Detector",
            [
                "train/loop.py:1: train imports __init__, which is not below it",
                "train/loop.py:2: train imports __init__, which is not below it",
            ],
        ),
        (
            "train/loop.py",
            "from . import state",
            ["train/loop.py:1: imports a relative import, which stands on no floor"],
        ),
        (
            "train/loop.py",
            "from aligndetr.cellar import wine",
            ["train/loop.py:1: imports cellar, which stands on no floor"],
        ),
        ("cellar/wine.py", "", ["cellar/wine.py: the room cellar stands on no floor of this test"]),
    ],
)
def test_the_import_rule_finds_what_points_up_or_sideways(file, source, complaints):
    assert import_complaints(file, source) == complaints


def test_the_circle_rule_finds_neighbours_that_need_each_other():
    there, back = "from aligndetr.predict import x", "import aligndetr.checkpoint"
    assert circle_complaints({"checkpoint.py": there, "predict.py": ""}) == []
    (complaint,) = circle_complaints({"checkpoint.py": there, "predict.py": back})
    assert complaint.startswith("a circle: ")
    assert {"checkpoint", "predict"} <= set(complaint.split())


def test_the_size_rule_finds_long_files():
    assert size_complaints("a.py", "x = 1\n" * 400) == []
    assert size_complaints("a.py", "x = 1\n" * 401) == ["a.py: 401 lines, 400 are the end"]


def test_the_size_rule_counts_a_body_without_its_docstring():
    docstring = '    """One.\n\n    Two.\n    """\n'
    assert size_complaints("a.py", "def f():\n" + docstring) == []
    assert size_complaints("a.py", "def f():\n" + docstring + "    x = 1\n" * 60) == []
    too_long = size_complaints("a.py", "def f():\n" + docstring + "    x = 1\n" * 61)
    assert too_long == ["a.py:1: f: 61 lines, 60 are the end"]


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(a, b, c, d, e, f, g, h, i): 0", None),
        ("def f(a, b, c, d, e, /, f, g, *, h, i, j): 0", 10),
        ("def f(a, b, c, d, e, f, g, h, *i, **j): 0", 10),
        ("class A:\n def f(self, a, b, c, d, e, f, g, h, i): 0", None),  # self does not count
        ("class A:\n @staticmethod\n def f(a, b, c, d, e, f, g, h, i, j): 0", 10),
        ("async def f(a, b, c, d, e, f, g, h, i, j): 0", 10),
    ],
)
def test_the_size_rule_counts_parameters(source: str, count: int | None):
    line = source.count("\n") + 1
    expected = [] if count is None else [f"a.py:{line}: f: {count} parameters, 9 are the end"]
    assert size_complaints("a.py", source) == expected


def test_the_size_rule_lets_only_commands_of_many_options_be_wide():
    wide = "def {}(a, b, c, d, e, f, g, h, i, j): 0"
    assert size_complaints("verbs/training.py", wide.format("train")) == []
    assert len(size_complaints("verbs/training.py", wide.format("predict"))) == 1
    assert len(size_complaints("train/loop.py", wide.format("train"))) == 1


def test_the_annotation_rule_finds_bare_parameters_and_results():
    source = dedent(
        """
        def f(a: int, *b: int, c: int = 1, **d: int) -> None:
            def inner(x): return x
        class A:
            def g(self) -> None: ...
            @classmethod
            def h(cls, *y, **z): ...
        """
    )
    assert annotation_complaints("a.py", source) == [
        "a.py:3: inner: x has no annotation",
        "a.py:3: inner: the result has no annotation",
        "a.py:7: h: y has no annotation",
        "a.py:7: h: z has no annotation",
        "a.py:7: h: the result has no annotation",
    ]


def test_the_habit_rule_finds_devices_prints_and_missing_docstrings():
    assert habit_complaints("a.py", '"""A."""\nx.to("cuda")\nself.cuda = 1') == []
    assert habit_complaints("a.py", "") == ["a.py: has no docstring"]
    assert habit_complaints("a.py", '"""A."""\nprint(x.cuda())') == [
        "a.py:2: print() outside the command line",
        "a.py:2: .cuda() binds the code to one device",
    ]
    assert habit_complaints("cli.py", '"""A."""\nprint(1)') == []


# The house keeps them


def house() -> dict[str, str]:
    return {
        path.relative_to(HOUSE).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(HOUSE.rglob("*.py"))
    }


@pytest.mark.parametrize(
    "rule", [import_complaints, size_complaints, annotation_complaints, habit_complaints]
)
def test_the_house_keeps_the_rule(rule):
    files = house()
    assert "errors.py" in files
    assert [line for file, source in files.items() for line in rule(file, source)] == []


def test_the_house_has_no_circles():
    assert circle_complaints(house()) == []
