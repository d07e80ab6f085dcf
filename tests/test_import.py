import subprocess
import sys

import pytest

import aligndetr

HEAVY = ("torch", "numpy", "pydantic")


def loaded_by(program: str) -> list[str]:
    """Return the heavy packages that the program has loaded at its end."""
    report = f"\nimport sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", program + report], check=True, capture_output=True, text=True
    )
    return eval(result.stdout.splitlines()[-1])


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import aligndetr") == []


def test_asking_for_help_loads_nothing_heavy():
    assert loaded_by("from aligndetr.cli import main\nassert main(['--help']) == 0") == []
    assert loaded_by("from aligndetr.cli import main\nassert main(['--version']) == 0") == []


def test_the_version_is_read_without_loading_anything_heavy():
    assert loaded_by("import aligndetr; aligndetr.__version__") == []


def test_the_version_is_that_of_the_installed_package():
    from importlib.metadata import version

    assert aligndetr.__version__ == version("aligndetr")


def test_the_public_names_are_those_of_their_homes():
    from aligndetr.api import Detector
    from aligndetr.config.schema import Config
    from aligndetr.types import Detections

    assert aligndetr.Detector is Detector
    assert aligndetr.Config is Config
    assert aligndetr.Detections is Detections


def test_the_public_names_are_listed():
    assert set(dir(aligndetr)) >= {"Config", "Detections", "Detector", "__version__"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'aligndetr' has no attribute 'Detectr'"):
        aligndetr.Detectr  # noqa: B018  # pyright: ignore
