from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def keep_threads() -> Iterator[None]:
    """Let a test change torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
