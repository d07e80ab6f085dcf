"""How the CPU shares the work among threads, and when it compiles."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import aligndetr
from aligndetr.kernels import deformable_cpu
from aligndetr.kernels.deformable_cpu import backward, forward

SIZES = (3, 4, 2, 1)  # (height, width) of two levels, one after the other
POINTS = (2, 150, 2, 2, 2)  # B, Q, H, L, P


@pytest.fixture
def tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value, locations, weights and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, 14, 2, 4, generator=generator),
        torch.rand(*POINTS, 2, generator=generator),
        torch.rand(POINTS, generator=generator),
        torch.randn(2, 150, 8, generator=generator),
    )


@pytest.mark.parametrize(
    "threads",
    [
        2,  # as many image-head pairs as tasks of the backward pass
        3,  # too few pairs: a task is one level of one of them
        7,  # more threads than pairs
    ],
)
def test_the_number_of_threads_does_not_change_the_numbers(
    tensors, threads, keep_threads, monkeypatch
) -> None:
    value, locations, weights, gradient = tensors
    torch.set_num_threads(1)
    output = forward(value, SIZES, locations, weights)
    gradients = backward(gradient, value, SIZES, locations, weights)
    torch.set_num_threads(threads)
    monkeypatch.setattr(deformable_cpu, "SMALL", 0)
    for _ in range(3):
        assert torch.equal(forward(value, SIZES, locations, weights), output)
        shared = backward(gradient, value, SIZES, locations, weights)
        torch.testing.assert_close(shared, gradients, rtol=1e-6, atol=1e-6)


def test_every_run_gives_the_same_bits(tensors, keep_threads, monkeypatch) -> None:
    value, locations, weights, gradient = tensors
    torch.set_num_threads(3)
    monkeypatch.setattr(deformable_cpu, "SMALL", 0)
    first = backward(gradient, value, SIZES, locations, weights)
    for _ in range(3):
        again = backward(gradient, value, SIZES, locations, weights)
        assert all(map(torch.equal, again, first))


def test_small_work_stays_on_the_callers_thread(tensors, keep_threads, monkeypatch) -> None:
    torch.set_num_threads(3)
    counts: list[int] = []
    monkeypatch.setattr(deformable_cpu, "run", lambda _, tasks: counts.append(len(tasks)))
    value, locations, weights, gradient = tensors
    forward(value, SIZES, locations, weights)
    backward(gradient, value, SIZES, locations, weights)
    assert counts == [1, 1]


def test_queries_before_and_after_another_do_not_change_it(tensors) -> None:
    value, locations, weights, _ = tensors
    whole = forward(value, SIZES, locations, weights)
    for start, stop in ((0, 1), (7, 20), (149, 150)):
        part = forward(value, SIZES, locations[:, start:stop], weights[:, start:stop])
        torch.testing.assert_close(part, whole[:, start:stop])


SCRIPT = """
import sys, torch
from aligndetr.kernels import deformable_attention
assert "numba" not in sys.modules
ones = torch.ones(1, 6, 1, 2)
centre = torch.full((1, 1, 1, 1, 1, 2), 0.5)
output = deformable_attention(ones, [(2, 3)], centre, torch.ones(1, 1, 1, 1, 1))
assert output.tolist() == [[[1.0, 1.0]]]
import aligndetr
print(aligndetr.__file__)
"""


def test_numba_waits_for_the_first_call_and_needs_no_place_to_write(tmp_path) -> None:
    package = tmp_path / "aligndetr"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(aligndetr.__file__).parent, package, ignore=ignore)
    (package / "kernels" / "__pycache__").write_text("a file where numba wants a folder")
    (tmp_path / "home").write_text("and another one")
    environment = {name: text for name, text in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        environment[name] = str(tmp_path / "home")
    environment["PYTHONPATH"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(package / "__init__.py")
