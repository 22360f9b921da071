"""What tools use of a backend besides its operations: recordings, times, reports and candidates for options."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cnn.product import ProductReport
from cnn.system.timing import Stopwatch, now

if TYPE_CHECKING:
    from cnn.backend import Backend

Around = Callable[..., Any]
"""Replaces a method: called with the original method and the arguments of the call."""

AnyBackend = TypeVar("AnyBackend", bound="Backend")


class AlgorithmChoice(NamedTuple):
    """The algorithm that a shape is computed by, and the seconds of all that it was chosen from, if it was measured.

    They were measured on the shape `source`, which may have another number of images.
    """

    name: str
    source: str
    seconds: dict[str, float]


class Recording(ABC):
    """Work of a backend, recorded so that it can be repeated on the same arrays."""

    @abstractmethod
    def record(self) -> AbstractContextManager[None]:
        """Records the work that this thread gives the backend within the block."""

    def prepare(self) -> bool:
        """Gets ready to repeat the work; False if there is no room for one more recording."""
        return True

    @abstractmethod
    def repeat(self) -> Any:
        """Repeats all the work; returns the last result that is not None."""


class Instruments:
    """The defaults for any backend; a backend that has more to report returns a subclass as its `instruments`.

    Other models may use the backend at the same time, so nothing here changes it: methods return private copies that
    behave differently, on which a model is then built.
    """

    def __init__(self, backend: "Backend") -> None:
        self.backend = backend

    def option_candidates(self) -> dict[str, Sequence[Any]]:
        """The values of its options that `cnn tune` should try here; options that others depend on come first."""
        return {}

    def algorithms(self) -> dict[str, AlgorithmChoice]:
        """The algorithm of every convolution run so far, by shape, as far as the backend has several."""
        return {}

    @property
    def measures_algorithms(self) -> bool:
        """Whether the first computation of a new shape may time algorithms, which takes longer than the work itself."""
        return False

    def recording(self) -> Recording | None:
        """An empty recording; None for a backend whose work cannot be recorded."""
        return None

    def recording_key(self) -> Hashable:
        """What a recording depends on besides its arrays: if this key changes, a new recording is needed."""
        return None

    @property
    def multiplies(self) -> bool:
        """False for a backend whose recordings leave out products, so that their results are meaningless."""
        return True

    def timed_kernels(self) -> AbstractContextManager[Stopwatch | None]:
        """Times the compiled kernels that this thread runs within the block; None if the backend does not use them."""
        return nullcontext()

    def timed(self, operations: Iterable[str], stopwatch: Stopwatch) -> "Backend":
        """A private copy that adds up the seconds of the named operations."""

        def run(operation: Around, *arguments: Any, **options: Any) -> Any:
            started = now()
            result = operation(*arguments, **options)
            stopwatch.seconds += now() - started
            return result

        return private(self.backend, **dict.fromkeys(operations, run))

    def without_products(self) -> "Backend":
        """A private copy that skips products and leaves their `out` unchanged, to time the work around them."""

        def nothing(gemm: Around, *arrays: Any, **options: Any) -> None:
            pass

        return private(self.backend, gemm=nothing)

    def reporting(self, hear: Callable[[ProductReport], None]) -> "Backend | None":
        """A private copy that reports where each product ran; None if the backend has only one place for them."""
        return None


def private(backend: AnyBackend, **methods: Around) -> AnyBackend:
    """A copy of `backend` that nobody else uses, with the named methods replaced.

    The copy shares what the backend holds, such as memory, a library and a worker process, and keeps the backend alive.
    """
    kind = type(backend)
    replaced = {name: _method(getattr(kind, name), around) for name, around in methods.items()}
    # Resources of the backend must not be released with a copy, nor while a copy exists.
    copied: AnyBackend = object.__new__(type(kind.__name__, (kind,), replaced | {"__del__": lambda self: None}))
    vars(copied).update(vars(backend), _copied_from=backend)
    return copied


def _method(replaced: Callable[..., Any], around: Around) -> Callable[..., Any]:
    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        return around(partial(replaced, self), *arguments, **options)

    return method
