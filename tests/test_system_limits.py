"""Limits under which libraries would end the process are refused in a sentence."""

import resource
import threading

import pytest
from helpers.fresh_python import printed

from cnn.cli import main
from cnn.errors import CnnError
from cnn.system import limits

check_again = limits.check_limits.__wrapped__


def test_this_machine_has_enough():
    before = threading.active_count()
    check_again()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("kind", "limit", "sentence"),
    [
        (resource.RLIMIT_AS, 700_000_000, "limited to 700.00 MB of address space, and .*raise the limit (ulimit -v)."),
        (resource.RLIMIT_STACK, 1 << 16, "limited to 0.07 MB of stack, and .* about 0.52 MB; raise .*(ulimit -s)."),
    ],
)
def test_too_little_is_refused_by_commands(monkeypatch, capsys, kind, limit, sentence):
    real = resource.getrlimit
    monkeypatch.setattr(resource, "getrlimit", lambda asked: (limit, limit) if asked == kind else real(asked))
    limits.check_limits.cache_clear()
    assert main(["summary", "lenet"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert all(part in line for part in sentence.split(".*"))
    monkeypatch.undo()
    check_again()


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
def test_threads_that_cannot_be_had_are_counted(monkeypatch, error):
    starts = iter([None, error("can't start new thread")])
    real = threading.Thread.start

    def start(thread):
        failure = next(starts)
        if failure:
            raise failure
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(CnnError, match=r"Only 1 more threads can be started here, and up to \d+ are needed; raise"):
        check_again()


def test_the_check_comes_before_numpy():
    assert printed("import sys, cnn.cli; print('numpy' in sys.modules)") == "False\n"
