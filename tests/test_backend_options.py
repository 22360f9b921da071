"""A backend's options: read, checked against its constructor, and part of an instance's identity."""

from functools import wraps
from typing import Annotated, Any, ClassVar, Literal

import pytest

from cnn import plugins, registry
from cnn.backend import Library
from cnn.backend_options import options_of, parse_option
from cnn.cli import main
from cnn.errors import UsageError

Numpy: Any = plugins.load(plugins.BACKENDS, "numpy")


class Tuned(Numpy):
    """A backend with options of every kind."""

    name: ClassVar[str] = "tuned"

    def __init__(
        self,
        *,
        cores: Annotated[int | None, "cores to use"] = None,
        mode: Annotated[Literal["fast", "safe"], "how to go about it"] = "safe",
        shares: Annotated[tuple[float, ...], "a share for each core"] = (),
        internal: int = 0,
    ) -> None:
        self.library = Library("tuned", "1")
        self.cores, self.mode, self.shares = cores, mode, shares


@pytest.fixture
def tuned(register_backend):
    """The backend `tuned`, registered beside the others."""
    register_backend(Tuned)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("cores=4", "cores", 4),
        ("share=0.5", "share", 0.5),
        ("mode=fast", "mode", "fast"),
        ('mode="fast"', "mode", "fast"),
        ("on=true", "on", True),
        ("shares=0,1,2", "shares", [0, 1, 2]),
        ("shares=[0.5, 0.25]", "shares", [0.5, 0.25]),
        ("threads-per-core=2", "threads_per_core", 2),
        ("path=/a=b", "path", "/a=b"),
        ("cores=4\nmode=3", "cores", "4\nmode=3"),
    ],
)
def test_option_is_read(text, name, value):
    assert parse_option(text) == (name, value)


@pytest.mark.parametrize("text", ["cores", "=4", "cores=", ""])
def test_option_without_name_or_value(text):
    with pytest.raises(UsageError, match=r"given as NAME=VALUE, not as '"):
        parse_option(text)


@pytest.mark.parametrize(
    ("text", "why"), [("x=nan", "finite"), ("x=-inf", "finite"), ("x=1e400", "finite"), (f"x={10**20}", "smaller")]
)
def test_numbers_that_nothing_can_be_are_refused(text, why):
    with pytest.raises(UsageError, match=f"^{text}: value is .* give a {why} number"):
        parse_option(text)


def test_options_are_the_annotated_arguments():
    found = options_of(Tuned)
    assert [str(option) for option in found.values()] == [
        "cores: cores to use",
        "mode: how to go about it (default: safe)",
        "shares: a share for each core (default: ())",
    ]
    assert found["mode"].to_dict()["type"] == "'fast' | 'safe'"
    assert found["cores"].to_dict()["type"] == "int | None"
    assert options_of(Numpy) == {}


def test_an_instance_for_each_set_of_options(tuned):
    plain, fast = registry.create("tuned"), registry.create("tuned", mode="fast", cores=2)
    assert (plain.mode, fast.mode, fast.cores) == ("safe", "fast", 2)
    assert registry.create("tuned", cores=2, mode="fast") is fast
    assert registry.create("tuned") is plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 1}, "Backend 'tuned' has no setting 'speed'; known are: cores, mode, shares"),
        ({"internal": 1}, "has no setting 'internal'"),
        ({"cores": "two"}, r"cores must be int \| None, not 'two'"),
        ({"mode": "slow"}, r"mode must be 'fast' \| 'safe', not 'slow'"),
        ({"shares": 0.5}, "shares must be"),
    ],
)
def test_wrong_options(tuned, options, message):
    with pytest.raises(UsageError, match=message):
        registry.create("tuned", **options)


def test_use_and_choose_take_options(tuned, forget_backends, monkeypatch):
    with pytest.raises(UsageError, match=r"Options \(cores\) belong to one backend; name it"):
        registry.choose(None, {"cores": 2})
    used = registry.use_backend("tuned", cores=2)
    assert registry.choose() == (used, "named")
    assert registry.choose(None, {"cores": 3})[0].cores == 3
    assert registry.choose("tuned")[0].cores is None
    forget_backends()
    monkeypatch.setenv("CNN_BACKEND", "tuned")
    backend, why = registry.choose(None, {"cores": 4})
    assert (backend.cores, why) == (4, "CNN_BACKEND")


def test_info_lists_them(tuned, capsys):
    assert main(["info"]) == 0
    assert "    option mode: how to go about it (default: safe)" in capsys.readouterr().out


def test_a_resumed_run_has_the_options_of_the_first(tuned, forget_backends, tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(Tuned, "__init__", recording(made))
    run = ["train", "mnist-5k", "--model", "mlp", "--epochs", "1", "--out", str(tmp_path / "run")]
    options = ["--backend", "tuned", "--backend-option", "shares=0.5,0.5", "--backend-option", "mode=fast"]
    assert main([*run, *options]) == 0
    assert made == [{"shares": [0.5, 0.5], "mode": "fast"}]
    forget_backends()
    assert main([*run, "--resume"]) == 0
    assert made[1:] == made[:1]
    # Of them only what is given again changes.
    forget_backends()
    assert main([*run, "--resume", "--backend-option", "mode=safe"]) == 0
    assert made[-1] == {"shares": [0.5, 0.5], "mode": "safe"}
    # Another backend does not have them.
    assert main([*run, "--resume", "--backend", "numpy"]) == 0


def test_the_command_names_the_options_there_are(tuned, capsys):
    assert main(["profile", "--backend", "tuned", "--backend-option", "speed=9"]) == 2
    assert capsys.readouterr().err == "cnn: Backend 'tuned' has no setting 'speed'; known are: cores, mode, shares.\n"


def recording(made):
    """Tuned's constructor, which records its arguments in `made`."""
    original = Tuned.__init__

    @wraps(original)
    def noted(self, **given):
        made.append(given)
        original(self, **given)

    return noted
