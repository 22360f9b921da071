"""--config: what a file may hold, what takes precedence over it, and the messages for mistakes."""

import json
import tomllib
from pathlib import Path

import pytest

from cnn.cli import COMMANDS, _parser, main
from cnn.commands._config_file import apply_config, write_config
from cnn.errors import UsageError


@pytest.fixture
def parsed(tmp_path):
    """The options of a command line as the command sees them, with --config and a file of the given text."""

    def parse(text, *words):
        path = tmp_path / "options.toml"
        path.write_text(text)
        given = [*words, "--config", str(path)]
        parser = _parser(given)
        options = parser.parse_args(given)
        apply_config(options.parser, options, COMMANDS)
        return parser.parse_args(given)

    return parse


def test_values_of_every_kind(parsed):
    text = """
        model = "net.toml"
        epochs = 3
        lr = 0.25
        weight_decay = 0
        flip = false
        pad_crop = 0
        seed = 7
        download = true
        backend = "openblas"
        threads = 2
        backend_options = {tile_bytes = 1000}
    """
    options = vars(parsed(text, "train"))
    expected = tomllib.loads(text)
    assert {name: options[name] for name in expected} == expected
    assert options["batch_size"] is None


def test_the_command_line_wins(parsed):
    text = 'batch_size = 32\nthreads = 2\nbackend = "b"\nbackend_options = {x = 1, y = 2}'
    for words in (["--batch-size", "8", "--backend-option", "x=3"], ["--backend-option", "x=3", "--batch-size", "8"]):
        options = parsed(text, "train", *words)
        assert (options.batch_size, options.threads) == (8, 2)
        assert options.backend_options == {"x": 3, "y": 2}


def test_settings_of_the_recipe_are_merged_and_typed(parsed):
    text = 'recipe = {epochs = 2, loss = {type = "SoftmaxCrossEntropy"}}'
    words = ("epochs=3", "loss.label_smoothing=0.1", "preprocessing=standardise", "augmentation.flip=true")
    options = parsed(text, "train", *(word for each in words for word in ("--set", each)))
    assert options.recipe == {
        "epochs": 3,
        "loss": {"type": "SoftmaxCrossEntropy", "label_smoothing": 0.1},
        "preprocessing": "standardise",
        "augmentation": {"flip": True},
    }


def test_a_setting_follows_a_name_that_was_set(parsed):
    words = ("optimizer=Adam", "optimizer.beta1=0.5")
    options = parsed("", "train", *(word for each in words for word in ("--set", each)))
    assert options.recipe == {"optimizer": {"type": "Adam", "beta1": 0.5}}


@pytest.mark.parametrize("key", [".epochs", "optimizer..momentum", "optimizer.", "a" + ".a" * 5000])
def test_a_key_with_a_dot_too_many_is_refused(key, parsed):
    with pytest.raises(UsageError, match="correct its dots"):
        parsed("", "train", "--set", f"{key}=1")


@pytest.mark.parametrize(("named", "kept"), [("b", {"x": 1}), ("other", None)])
def test_another_backend_does_not_get_the_options_of_this_one(parsed, named, kept):
    options = parsed('backend = "b"\nbackend_options = {x = 1}', "train", "--backend", named)
    assert (options.backend, options.backend_options) == (named, kept)


def test_options_in_a_file_without_backend_are_those_of_the_one_named(parsed):
    assert parsed("backend_options = {x = 1}", "train", "--backend", "b").backend_options == {"x": 1}


def test_a_model_in_a_file_is_the_one_that_is_not_given(parsed):
    assert parsed('model = "mlp"', "profile").model == "mlp"
    assert parsed('model = "mlp"', "profile", "vgg6").model == "vgg6"


def test_a_byte_order_mark_is_no_part_of_a_file(parsed):
    assert parsed("\ufeffepochs = 3", "train").epochs == 3


def test_a_table_of_a_command_is_its_own(parsed):
    text = "threads = 1\n[eval]\nbatch_size = 512\n[train]\nepochs = 3"
    assert parsed(text, "eval", "m", "mnist-5k").batch_size == 512
    options = parsed(text, "train")
    assert (options.batch_size, options.epochs, options.threads) == (None, 3, 1)


@pytest.mark.parametrize(("value", "counts"), [("2", [2]), ("[1, 2]", [1, 2])])
def test_several_values(parsed, value, counts):
    assert parsed(f"threads = {value}", "bench").threads == counts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epohcs = 9", r"has no setting 'epohcs'; did you mean 'epochs'\? Known are: model, "),
        ("colour = 9", r"cnn train --config .*toml has no setting 'colour'; known are: model, epochs, batch_size, "),
        ('config = "other.toml"', "has no setting 'config'"),
        ("dataset = 'mnist'", "has no setting 'dataset'"),
        ("[backend_option]\nx = 1", "has no setting 'backend_option'"),
        ('threads = "two"', "toml: threads must be int, not 'two'"),
        ('threads = "2"', "threads must be int, not '2'"),
        ("threads = 2.5", "threads must be int, not 2.5"),
        ("threads = true", "threads must be int, not True"),
        ("threads = [1, 2]", "threads must be int"),
        ("threads = 0", "threads: '0' is not a whole number of at least 1"),
        ("lr = nan", "lr is nan; give a finite number"),
        ("lr = -1", "lr: '-1' is not a number above 0"),
        ("validation = 1", "validation: '1' is not a number of at least 0 and below 1"),
        ("flip = 1", "flip must be bool, not 1"),
        ("model = 3", "model must be str, not 3"),
        ('backend_options = "fast"', "backend_options must be a table, not 'fast'"),
        ("recipe = 3", "recipe must be a table, not 3"),
        ("eval = 3", "has no setting 'eval'"),
        ("[train]\nspeed = 3", "has no setting 'speed'"),
    ],
)
def test_mistakes(parsed, text, message):
    with pytest.raises(UsageError, match=message):
        parsed(text, "train")


def test_choices_are_checked(parsed):
    with pytest.raises(UsageError, match=r"split must be 'test' \| 'train', not 'all'"):
        parsed('split = "all"', "eval", "m", "mnist-5k")


def test_a_mistake_ends_the_command_with_one_sentence(tmp_path, capsys):
    path = tmp_path / "options.toml"
    assert main(["train", "--config", str(path)]) == 1
    assert f"There is no TOML file {path}" in capsys.readouterr().err
    path.write_text("threads = ")
    assert main(["train", "--config", str(path)]) == 1
    assert "options.toml cannot be read as TOML" in capsys.readouterr().err
    path.write_text("speed = 9")
    assert main(["train", "--config", str(path)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("cnn: cnn train --config")


def test_a_run_takes_it_and_a_resumed_run_remembers(tmp_path, capsys):
    path, out = tmp_path / "options.toml", tmp_path / "run"
    path.write_text('model = "mlp"\nepochs = 1\nbatch_size = 500\nbackend = "numpy"\nthreads = 1')
    run = ["train", "--out", str(out)]
    assert main([*run, "--config", str(path)]) == 0
    settings = json.loads((out / "settings.json").read_text())["options"]
    assert (settings["model"], settings["batch_size"], settings["backend"]) == ("mlp", 500, "numpy")
    capsys.readouterr()
    assert main([*run, "--resume", "--epochs", "2"]) == 0
    printed = capsys.readouterr().out
    assert "2 epochs, batch 500" in printed
    assert "resumed  after 1 epoch," in printed
    # Of the recipe only what is given again changes.
    words = ("--set", "validation=0.05", "--set", "clip_norm=1")
    assert main(["train", "synthetic", "--model", "mlp", "--backend", "numpy", "--out", f"{out}2", *words]) == 0
    assert main(["train", "--out", f"{out}2", "--resume", "--set", "validation=0.05", "--epochs", "11"]) == 0
    again = json.loads(Path(f"{out}2", "settings.json").read_text())["options"]
    assert again["recipe"] == {"validation": 0.05, "clip_norm": 1}
    capsys.readouterr()
    # For a resumed run, a file takes precedence over the stored settings.
    path.write_text("epochs = 3\n")
    assert main([*run, "--resume", "--config", str(path)]) == 0
    assert "3 epochs, batch 500" in capsys.readouterr().out


def test_what_is_written_reads_back(tmp_path: Path):
    path = tmp_path / "folder" / "tuned.toml"
    values = {"backend": 'a "b" \\ é', "threads": 2, "lr": 1e-05, "flip": True}
    tables = {"backend_options": {"shares": (0.5, 0.25), "mode": "fast"}, "eval": {"batch_size": 7}}
    write_config(path, ["a remark"], values | tables)
    assert path.read_text().startswith("# a remark\n")
    tables["backend_options"]["shares"] = [0.5, 0.25]
    assert tomllib.loads(path.read_text()) == values | tables
