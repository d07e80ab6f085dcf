import ctypes
import subprocess
import sys

import pytest

from aligndetr.train.memory import keep_heap


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the options")
def test_the_heap_is_kept() -> None:
    # In a process of its own: the option cannot be taken back.
    code = "from aligndetr.train.memory import keep_heap; raise SystemExit(not keep_heap())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_heap()
