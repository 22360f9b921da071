"""What every bench shares: the ready backends, the thread counts, and GFLOP/s beside the time."""

from collections.abc import Callable, Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from cnn import registry
from cnn.backend import Backend
from cnn.model.passes import SETTLED
from cnn.system.threads import budget, limit_threads
from cnn.system.timing import repeat

# The reference is slow on purpose: its time says nothing.
READY = [each.name for each in registry.statuses() if each.library and each.name != "reference"]

Timer = Callable[[str, Callable[[], object], int], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A fifth of a second for each of some two thousand benches, where the command line gives no other time."""
    for item in items:
        item.add_marker(pytest.mark.benchmark(max_time=0.2, min_rounds=5))


@pytest.fixture(params=READY)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each ready backend."""
    return registry.create(request.param)


@pytest.fixture(params=sorted({1, budget().count}), ids="{}t".format)
def threads(request: pytest.FixtureRequest, backend: Backend) -> Iterator[int]:
    """One thread, and all that this process may use, set after the backend's library is loaded."""
    with limit_threads(request.param):
        yield request.param


@pytest.fixture
def timed(benchmark: BenchmarkFixture, threads: int) -> Timer:
    """Times a call after a warm-up, in the group of its name, so that the backends stand under one another."""

    def run(group: str, call: Callable[[], object], flops: int) -> None:
        benchmark.group = f"{group}, {threads} thread{'s' * (threads > 1)}"
        repeat(call, SETTLED)
        benchmark(call)
        if flops and benchmark.stats:
            benchmark.extra_info["gflops"] = round(flops / benchmark.stats.stats.median / 1e9, 2)

    return run
