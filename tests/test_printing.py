"""Output that cannot be written or shown never ends a run, and tables are aligned whatever their characters."""

import errno
import io
import signal
import subprocess
import sys

import pytest

from cnn.cli import main
from cnn.errors import CnnError
from cnn.system.signals import stop_on_signals, stop_requested
from cnn.terminal.printing import (
    columns,
    flush,
    is_terminal,
    note,
    output_may_fail,
    prepare_streams,
    print_lines,
    print_table,
    shown,
)
from cnn.training.progress import Bar, progress


class Gone(io.TextIOBase):
    """A stream that takes some writes and fails from then on."""

    encoding = "utf-8"

    def __init__(self, number=0, writes=0):
        self.number, self.writes, self.failed = number, writes, 0

    def write(self, text):
        self.writes -= 1
        if self.writes < 0:
            self.failed += 1
            raise OSError(self.number, "gone")
        return len(text)

    def isatty(self):
        return True


def test_wide_and_combining_characters_are_aligned(capsys):
    print_table(["", "名前", "n"], [["猫", "1", "23"], ["cafe\u0301", "x", "y"], ["dog", "long", "4"]])
    lines = capsys.readouterr().out.splitlines()
    assert {columns(line) for line in lines} == {columns("café") + 2 + 4 + 2 + 2}
    assert lines[1] == "猫       1  23"
    print_lines({"名": "a", "long": "b"})
    assert capsys.readouterr().out == "名    a\nlong  b\n"


def test_a_column_of_texts_is_wrapped_and_the_least_important_columns_left_out(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    head, rows = (
        ["layer", "number", "extra", "reads"],
        [["concat1", "1", "x" * 20, "conv1, conv2, conv3, conv4, conv5"]],
    )
    print_table(head, rows, extra=["extra"], text="reads")
    expected = [
        "layer    number  reads",
        "concat1       1  conv1, conv2, conv3, conv4, conv5",
        "not shown: extra (--wide)",
    ]
    assert capsys.readouterr().out.splitlines() == expected
    print_table(head, rows, text="reads")
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert first == f"concat1       1  {'x' * 20}  conv1, conv2, conv3,"
    assert second == f"{' ' * first.index('conv1')}conv4, conv5"
    print_table(head, rows, extra=["extra"], wide=True, text="reads")
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    "words",
    [
        "summary resnet8 --backend numpy",
        "cost resnet8",
        "data list",
        "backends list",
        "devices",
        "reference Conv2D",
        "model validate --published",
    ],
)
def test_what_commands_print_fits_80_columns(words, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(words.split()) == 0
    lines = capsys.readouterr().out.splitlines()
    too_long = [line for line in lines if len(line) > 80]
    assert [line for line in too_long if len(line.split()) > 1] == []  # a path is not cut
    assert len(lines) > 3


def test_what_the_encoding_has_not_is_escaped(monkeypatch):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="latin-1"))
    prepare_streams()
    print_table(["", "é"], [["猫", "x"], ["a", "\udcff"], ["\x1b[31m", "y"]])
    print("猫")
    sys.stdout.flush()
    text = out.getvalue().decode("latin-1")
    assert text == "               é\n\\u732b         x\na         \\udcff\n\\x1b[31m       y\n\\u732b\n"
    assert shown("1 µJ") == "1 µJ"


@pytest.mark.parametrize(
    ("number", "streams", "writes"),
    [
        (errno.EPIPE, ["stdout"], 1),
        (errno.ENOSPC, ["stdout", "stderr"], 0),
        (errno.EIO, ["stdout", "stderr"], 30),
        (errno.ENOSPC, ["stderr"], 3),
    ],
)
def test_a_run_whose_output_fails_goes_on_and_saves_everything(number, streams, writes, monkeypatch, tmp_path, capsys):
    gone = [Gone(number, writes) for _ in streams]
    for name, stream in zip(streams, gone, strict=True):
        monkeypatch.setattr(sys, name, stream)
    (tmp_path / "net.toml").write_text(
        'name = "n"\ninput = [28, 28, 1]\nlayers = [{type = "Flatten"}, {type = "Linear", units = 10}]'
    )
    words = ["train", "synthetic", "--model", str(tmp_path / "net.toml"), "--epochs", "2", "--backend", "numpy"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "summary.json").exists()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    if streams == ["stdout"]:
        assert gone[0].failed
        assert "cnn: the output cannot be written (gone); the work goes on" in capsys.readouterr().err


def test_without_the_streams_there_is_no_bar_and_no_failure(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    assert not is_terminal(sys.stderr)
    assert not isinstance(progress(1), Bar)
    note("nobody hears this")
    with output_may_fail():
        print("nor this")
    prepare_streams()
    print("nor this", file=sys.stderr, flush=True)
    sys.stderr.close()
    sys.stdout.close()


def test_output_that_is_the_result_of_a_command_must_be_written(monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        print("result")
        with pytest.raises(CnnError, match="could not be written"):
            flush()


def test_a_real_run_without_anywhere_to_print_to(tmp_path):
    words = "synthetic --model mlp --batch-size 500 --epochs 1 --backend numpy --watts 1"
    line = f'"$0" -m cnn train {words} --out "$1" >/dev/full 2>&-'
    done = subprocess.run(["sh", "-c", line, sys.executable, str(tmp_path / "run")], check=False)
    assert done.returncode == 0
    assert (tmp_path / "run" / "summary.json").exists()


def test_a_terminal_that_ends_asks_the_run_to_stop_unless_that_is_ignored():
    class Run:
        reason = None

        def request_stop(self, reason):
            self.reason = reason

    run, outside = Run(), signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have started the tests
    before = signal.getsignal(signal.SIGHUP)
    with stop_on_signals(run):
        signal.raise_signal(signal.SIGHUP)
        assert stop_requested()
    assert not stop_requested()
    assert run.reason == "SIGHUP, the end of its terminal"
    assert signal.getsignal(signal.SIGHUP) == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_on_signals(ignored := Run()):
            signal.raise_signal(signal.SIGHUP)
        assert ignored.reason is None
    finally:
        signal.signal(signal.SIGHUP, outside)
