from itertools import cycle
from types import SimpleNamespace

import pytest
import torch

from aligndetr import precision
from aligndetr.precision import cpu_advantage, resolve_precision

CPU = torch.device("cpu")


def test_precision_is_what_was_asked_for() -> None:
    assert resolve_precision("fp32", CPU) == torch.float32
    assert resolve_precision("bf16", CPU) == torch.bfloat16
    assert resolve_precision("auto", torch.device("meta")) == torch.float32


@pytest.mark.parametrize(
    ("has_instructions", "advantage", "expected"),
    [
        (True, 2.1, torch.bfloat16),
        (True, 0.5, torch.float32),
        (True, 1.1, torch.float32),
        (False, 2.1, torch.float32),
    ],
)
def test_a_cpu_takes_bfloat16_where_it_has_it_and_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, has_instructions: bool, advantage: float, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(precision, "cpu_advantage", lambda: advantage)
    assert resolve_precision("auto", CPU) == expected


def test_the_advantage_is_the_ratio_of_the_best_times(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_advantage.cache_clear()
    now, lengths = [0.0], cycle([7.0, 4.0, 6.0, 2.0, 9.0, 3.0])  # fp32, bf16, fp32, ...
    reads = cycle([0, 1])

    def clock() -> float:
        now[0] += next(lengths) if next(reads) else 0.0
        return now[0]

    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=clock))
    assert cpu_advantage() == 6.0 / 2.0
    cpu_advantage.cache_clear()


def test_it_is_measured_once() -> None:
    first = cpu_advantage()
    assert first > 0
    assert cpu_advantage() is first
