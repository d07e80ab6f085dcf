import pytest
import torch

from aligndetr.kernels.chunks import CACHE_ELEMENTS, OTHER_ELEMENTS, chunk_rows, chunk_spans

CPU = torch.device("cpu")


def test_a_processor_takes_as_many_rows_as_its_cache_holds() -> None:
    rows = torch.zeros(10, 3)

    assert chunk_rows(rows, CACHE_ELEMENTS // 4) == 4
    assert chunk_rows(rows, CACHE_ELEMENTS * 2) == 1
    assert chunk_rows(rows, 0) == CACHE_ELEMENTS


def test_other_devices_take_all_rows_at_once() -> None:
    assert chunk_rows(torch.zeros(10, 3, device="meta"), CACHE_ELEMENTS * 2) == 10
    assert chunk_rows(torch.zeros(0, 3, device="meta"), 5) == 1


@pytest.mark.parametrize("counts", [(), (0,), (0, 0, 0)])
def test_images_without_anything_need_no_chunk(counts) -> None:
    assert list(chunk_spans(counts, 10, CPU)) == []


def test_spans_have_as_many_images_as_fit_but_one_at_least() -> None:
    half = CACHE_ELEMENTS // 2
    spans = list(chunk_spans((1, 1, 1, 0, 3, 0, 1, 0), half, CPU))
    assert spans == [slice(0, 2), slice(2, 3), slice(4, 5), slice(6, 7)]
    assert list(chunk_spans((0, 2, 1, 0), 1, CPU)) == [slice(1, 3)]
    other = torch.device("meta")
    assert list(chunk_spans((1, 1, 1), half, other)) == [slice(0, 3)]
    assert list(chunk_spans((1, 1, 1), OTHER_ELEMENTS, other)) == [
        slice(i, i + 1) for i in (0, 1, 2)
    ]


def test_nothing_to_compute_is_one_span() -> None:
    assert list(chunk_spans((2, 1), 0, CPU)) == [slice(0, 2)]
