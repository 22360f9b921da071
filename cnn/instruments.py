"""What is asked of a backend beside its operations: recordings, times, reports and candidates, by which tools work."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from cnn.product import ProductReport
from cnn.system.timing import Stopwatch, now

if TYPE_CHECKING:
    from cnn.backend import Backend

Around = Callable[..., Any]
"""Stands for a method: is handed that method, and the arguments of the call."""

AnyBackend = TypeVar("AnyBackend", bound="Backend")


class Recording(ABC):
    """Work of a backend, recorded to be done again on the same arrays."""

    @abstractmethod
    def record(self) -> AbstractContextManager[None]:
        """Adds what this thread has the backend do within the block."""

    @abstractmethod
    def repeat(self) -> Any:
        """Does it all again; what that returned last which returned anything."""


class Instruments:
    """The answers of any backend; one that has more to tell returns a subclass of this as its `instruments`.

    Other models may use the backend meanwhile, so nothing here changes it: what is to work in another way is a private
    copy of it, on which a model is built.
    """

    def __init__(self, backend: "Backend") -> None:
        self.backend = backend

    def option_candidates(self) -> dict[str, Sequence[Any]]:
        """The values of its options that `cnn tune` is to try here; those that others depend on come first."""
        return {}

    def algorithm_times(self) -> dict[str, dict[str, float]]:
        """Seconds of each algorithm for every convolution run by now that there is a choice for, by its shape."""
        return {}

    def recording(self) -> Recording | None:
        """An empty recording; None for a backend whose work cannot be recorded."""
        return None

    def recording_key(self) -> Hashable:
        """What a recording depends on beside its arrays: where it has changed, another one is needed."""
        return None

    @property
    def multiplies(self) -> bool:
        """False for a backend whose recordings leave products out: its results then say nothing."""
        return True

    def timed_kernels(self) -> AbstractContextManager[Stopwatch | None]:
        """Times what this thread runs in compiled kernels within the block; None where its work is not in such."""
        return nullcontext()

    def timed(self, operations: Iterable[str], stopwatch: Stopwatch) -> "Backend":
        """A private copy that counts the seconds of its operations of these names."""

        def run(operation: Around, *arguments: Any, **options: Any) -> Any:
            started = now()
            result = operation(*arguments, **options)
            stopwatch.seconds += now() - started
            return result

        return private(self.backend, **dict.fromkeys(operations, run))

    def without_products(self) -> "Backend":
        """A private copy that leaves `out` of every product as it is, to tell products from what is around them."""

        def nothing(gemm: Around, *arrays: Any, **options: Any) -> None:
            pass

        return private(self.backend, gemm=nothing)

    def reporting(self, hear: Callable[[ProductReport], None]) -> "Backend | None":
        """A private copy that tells of each product where it ran; None for a backend that has one place for them."""
        return None


def private(backend: AnyBackend, **methods: Around) -> AnyBackend:
    """A copy of `backend` that nobody else has, with others in place of its methods of these names.

    The copy shares what the backend holds, such as memory, a library and a worker process, and keeps the backend alive.
    """
    kind = type(backend)
    replaced = {name: _method(getattr(kind, name), around) for name, around in methods.items()}
    copied = copy(backend)
    # What ends with the backend must neither end with a copy nor before it.
    copied.__class__ = type(kind.__name__, (kind,), replaced | {"__del__": lambda self: None})
    vars(copied)["_copied_from"] = backend
    return copied


def _method(replaced: Callable[..., Any], around: Around) -> Callable[..., Any]:
    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        return around(partial(replaced, self), *arguments, **options)

    return method
