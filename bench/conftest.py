"""What all benchmarks share: the ready backends, the thread counts, and GFLOP/s besides the time."""

from collections.abc import Callable, Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from cnn import registry
from cnn.backend import Backend
from cnn.model.passes import SETTLED
from cnn.system.threads import budget, limit_threads
from cnn.system.timing import repeat

Timer = Callable[[str, Callable[[], object], int], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Limits each of some two thousand benchmarks to a fifth of a second, unless the command line gives a time."""
    for item in items:
        item.add_marker(pytest.mark.benchmark(max_time=0.2, min_rounds=5))


@pytest.fixture(params=registry.ready_names())
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each ready backend."""
    return registry.create(request.param)


@pytest.fixture(params=sorted({1, budget().count}), ids="{}t".format)
def threads(request: pytest.FixtureRequest, backend: Backend) -> Iterator[int]:
    """One thread, and all threads that this process may use, set after the backend's library is loaded."""
    with limit_threads(request.param):
        yield request.param


@pytest.fixture
def timed(benchmark: BenchmarkFixture, threads: int) -> Timer:
    """Times a call after a warm-up, grouped by its name, so that the backends are listed below one another."""

    def run(group: str, call: Callable[[], object], flops: int) -> None:
        benchmark.group = f"{group}, {threads} thread{'s' * (threads > 1)}"
        repeat(call, SETTLED)
        benchmark(call)
        if flops and benchmark.stats:
            benchmark.extra_info["gflops"] = round(flops / benchmark.stats.stats.median / 1e9, 2)

    return run
