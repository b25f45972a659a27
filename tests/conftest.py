"""What every test starts from: seeded, and leaving torch as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "reparamkit", derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False
)
settings.load_profile("reparamkit")
torch.set_num_threads(1)  # the tensors are tiny, and pytest -n has taken the cores


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """A seed for what a test draws; afterwards the process-wide switches must stand where they stood."""
    torch.manual_seed(0)
    call = torch.nn.Module.__call__
    yield
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert torch.nn.Module.__call__ is call
