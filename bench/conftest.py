"""What every bench shares: the ready backends, the thread counts, and the pools set to them."""

from collections.abc import Iterator

import pytest

from cnn import backend as backends
from cnn.backend import Backend
from cnn.threads import budget, limit

BACKENDS = [each.name for each in backends.statuses() if each.library]
THREADS = sorted({1, budget().count})


@pytest.fixture(params=[name for name in BACKENDS if name != "reference"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each ready backend but the reference, which is slow on purpose."""
    return backends.create(request.param)


@pytest.fixture(params=THREADS, ids=lambda count: f"{count}t")
def threads(request: pytest.FixtureRequest, backend: Backend) -> Iterator[int]:
    """One thread, and all that this process may use; the pools are set after the backend's library is loaded."""
    with limit(request.param):
        yield request.param
