"""Parity tests run once for each published case that they name."""

from typing import Any

import pytest

from parity.goldens import HINT, Golden, arrays_in, goldens_dir


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "goldens(folder or folders, pattern, has=()): the published cases that a parity test runs "
        "on, of those that have these arrays",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `golden` once for each file that its `goldens` marker names."""
    if "golden" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("goldens")
    assert marker is not None, f"{metafunc.function.__name__} needs @pytest.mark.goldens(...)"
    folders = (marker.args[0],) if isinstance(marker.args[0], str) else marker.args[0]
    wanted = set(marker.kwargs.get("has", ()))
    cases: list[Any] = []
    for folder in folders:
        paths = sorted((goldens_dir() / folder).glob(marker.args[1]))
        found = [path for path in paths if wanted <= arrays_in(path)]
        cases += [pytest.param(path, id=f"{folder}-{path.stem}") for path in found]
    if not cases:
        why = f"no {marker.args[1]} in {goldens_dir()}/{{{','.join(folders)}}}: {HINT}"
        cases = [pytest.param(None, id="missing", marks=pytest.mark.skip(why))]
    metafunc.parametrize("golden", cases, indirect=True)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden.read(request.param)
