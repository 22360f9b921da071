"""Numbers and texts beyond all use are refused in one short sentence, before time or memory is spent on them."""

import argparse
import tracemalloc
from pathlib import Path

import pytest

from cnn.cli import main
from cnn.errors import LONGEST, CnnError, FileFormatError, UsageError, listed
from cnn.layers import Conv2D, Flatten, Linear, LocalResponseNorm, MaxPool2D, ReLU
from cnn.model.network import Network
from cnn.model.sequential import Sequential
from cnn.system.threads import budget
from cnn.terminal.arguments import whole_number, whole_number_or_zero
from cnn.toml import MOST_BYTES, parse_toml, read_toml

DIGITS = "9" * 4400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"n = {DIGITS}", "number with too many digits"),
        (f"n = 0x{'f' * 20}", "n is beyond 9,223,372,036,854,775,807"),
        ("[a]\nb = [1, 1e400]", r"a\.b\[1\] is inf; give a finite number"),
        ("n = -inf", "n is -inf"),
        ("n = nan", "n is nan"),
        (f"n = {'[' * 100_000}{']' * 100_000}", "nested more than 16 deep"),
        (f"n = {'[' * 20}{']' * 20}", "nested more than 16 deep"),
        ("a" + ".a" * 100_000 + " = 1", "a key of more than 16 parts"),
        (f"[{' . '.join(['a'] * 40)}]", "a key of more than 16 parts"),
        ("n = 1\n" * 2, "cannot be read as TOML"),
    ],
)
def test_a_toml_text_with_numbers_or_depths_beyond_all_use_is_refused(text: str, words: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises((FileFormatError, UsageError), match=f"^net: ?.*{words}") as caught:
            parse_toml(text, "net:")
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) <= LONGEST


def test_what_is_usual_in_a_toml_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfa.b.c = [[0.5, 1], [2]]\ntext = '" + b"a.b " * 100 + b"'\n[[l]]\nx = -9e300")
    assert read_toml(path) == {"a": {"b": {"c": [[0.5, 1], [2]]}}, "text": "a.b " * 100, "l": [{"x": -9e300}]}
    path.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(FileFormatError, match="more than 500,000 bytes"):
        read_toml(path)


@pytest.mark.parametrize("option", ["--config", "--devices", "--links"])
def test_each_option_that_names_a_toml_file_refuses_such_numbers(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.toml"
    command = {"--config": "train", "--devices": "devices", "--links": "compare"}[option]
    more = ["--nodes", "1,2"] if option == "--links" else []
    for text, words in ((f"n = {DIGITS}", "too many digits"), ("n = 1e400", "is inf")):
        path.write_text(text)
        assert main([command, option, str(path), *more]) == 2
        assert words in capsys.readouterr().err
    assert main([command, option, str(tmp_path / "none.toml"), *more]) == 1
    assert "There is no TOML file" in capsys.readouterr().err
    assert main([command, option, str(tmp_path), *more]) == 1
    assert "is a folder; name the TOML file itself" in capsys.readouterr().err


@pytest.mark.parametrize("text", [DIGITS, "1" * 21, str(2**63)])
def test_numbers_on_the_command_line_and_in_variables_have_a_range(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (whole_number, whole_number_or_zero):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number of at least"):
            kind(text)
    monkeypatch.setenv("CNN_NUM_THREADS", text)
    with pytest.raises(UsageError, match="set it to a whole number of at least 1"):
        budget()


def test_a_series_of_numbers_of_nodes_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--nodes", "1,2,3,...,1000000000"]) == 2
    assert "has more than 1000 numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (lambda: Conv2D(10**30, 3), "conv1 would have more than 1,099,511,627,776 parameters"),
        (lambda: Conv2D(4, 3, padding=2**31), "conv1: An image of .* goes beyond 65,536 pixels"),
        (lambda: MaxPool2D(10**9, padding=10**8), "maxpool1: An image of .* goes beyond 65,536"),
        (lambda: MaxPool2D(3, padding=10**9), r"maxpool1: .*must be smaller than the pooling kernel"),
        (lambda: Linear(10**15), "linear1 would have more than 1,099,511,627,776 parameters"),
        (lambda: LocalResponseNorm(10**9 + 1), "size must be at least 1 and at most 1,024"),
    ],
)
def test_sizes_beyond_all_machines_are_refused_with_the_layer(layer: object, words: str) -> None:
    assert callable(layer)
    shape = (784,) if "linear" in words else (28, 28, 1)
    with pytest.raises(UsageError, match=words):
        Network([layer()], shape)


def test_a_model_that_this_machine_cannot_hold_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(CnnError, match=r"net needs [\d,.]+ GB for its weights and one image, but this machine has"):
        Sequential([Flatten(), Linear(2**30), Linear(10)], (28, 28, 1), backend="numpy")


def test_a_network_of_very_many_layers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="at most 1,000 layers, not 1,001"):
        Network([ReLU() for _ in range(1001)], (4,))
    path = tmp_path / "deep.toml"
    path.write_text("input = [28, 28, 1]\n" + "[[layers]]\ntype = 'ReLU'\n" * 10_000)
    assert main(["compare", str(path)]) == 2
    assert "at most 1,000 layers, not 10,000" in capsys.readouterr().err


def test_an_error_quotes_no_more_than_anybody_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = UsageError("Cause: " + "x" * 100_000 + "; cure.")
    assert len(str(error)) <= LONGEST
    assert str(error).startswith("Cause: x")
    assert str(error).endswith("x; cure.")
    path = tmp_path / "net.toml"
    path.write_text(f"input = [28, 28, 1]\n[[layers]]\ntype = 'Linear'\nunits = '{'x' * 100_000}'")
    assert main(["summary", str(path)]) == 2
    assert main(["train", "y" * 100_000]) == 2
    assert main(["train", "--epochs", "z" * 100_000]) == 2
    for line in capsys.readouterr().err.splitlines():
        assert len(line) < 1300
    assert listed("abc", 2) == "a, b and 1 more"
    assert str(CnnError("short")) == "short"
