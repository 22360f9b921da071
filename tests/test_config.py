"""Objects as tables of plain values: they read back unchanged, and tables that do not fit give an error."""

from dataclasses import dataclass, field

import pytest

from cnn.config import Configurable
from cnn.errors import UsageError


class Shape(Configurable):
    """A family for these tests."""


class Round(Shape):
    """A common base, no member of its own."""


@dataclass
class Circle(Round):
    radius: float
    name: str = "circle"
    open: bool = False


@dataclass
class Box(Shape):
    sides: int | tuple[int, int]
    tags: list[str] = field(default_factory=list)
    inner: Shape | None = None
    rates: tuple[float, ...] = ()
    area: float = field(init=False, default=0.0)

    def __post_init__(self):
        if isinstance(self.inner, dict | str):
            self.inner = Shape.from_config(self.inner)


class Sound(Configurable):
    """Another family."""


@dataclass
class Tone(Sound):
    pitch: float = 440.0


@pytest.mark.parametrize(
    ("thing", "table"),
    [
        (Circle(2.0), {"type": "Circle", "radius": 2.0}),
        (Circle(2.0, open=True), {"type": "Circle", "radius": 2.0, "open": True}),
        (Box(3), {"type": "Box", "sides": 3}),
        (
            Box((3, 4), ["a"], Circle(1.0), (0.5, 1)),
            {
                "type": "Box",
                "sides": (3, 4),
                "tags": ["a"],
                "inner": {"type": "Circle", "radius": 1.0},
                "rates": (0.5, 1),
            },
        ),
        (Tone(), {"type": "Tone"}),
    ],
)
def test_a_table_holds_what_differs_from_the_defaults_and_reads_back(thing, table):
    family = Sound if isinstance(thing, Tone) else Shape
    assert thing.config() == table
    assert family.from_config(table) == thing


def test_an_object_passes_and_a_bare_name_makes_one():
    circle = Circle(1.0)
    assert Shape.from_config(circle) is circle
    assert Sound.from_config("Tone") == Tone()


@pytest.mark.parametrize(
    "table",
    [
        {"type": "Box", "sides": [3, 4], "rates": [1, 2.5]},
        {"type": "Box", "sides": 3, "inner": "Box"} | {"inner": {"type": "Circle", "radius": 1}},
        {"type": "Circle", "radius": 2},
    ],
)
def test_lists_whole_numbers_and_tables_may_stand_for_tuples_floats_and_objects(table):
    assert type(Shape.from_config(table)).__name__ == table["type"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (3, "A shape is described by a table with a `type`, not by 3."),
        ({}, "A shape is described by a table with a `type`, not by {}."),
        ({"type": 3}, "A shape is described by a table with a `type`, not by {'type': 3}."),
        (Tone(), "A shape is described by a table with a `type`, not by Tone(pitch=440.0)."),
        ("Oval", "There is no shape 'Oval'; known are: Box, Circle."),
        ({"type": "Round"}, "There is no shape 'Round'; known are: Box, Circle."),
        ({"type": "Tone"}, "There is no shape 'Tone'; known are: Box, Circle."),
        ({"type": "Circle", "colour": 1}, "Circle has no setting 'colour'; known are: radius, name, open."),
        ({"type": "Box", "sides": 1, "area": 2.0}, "Box has no setting 'area'; known are: sides, tags, inner, rates."),
        ({"type": "Circle"}, "Circle needs a value for radius."),
        ({"type": "Box", "tags": []}, "Box needs a value for sides."),
        ({"type": "Circle", "radius": "2"}, "Circle: radius must be float, not '2'."),
        ({"type": "Circle", "radius": True}, "Circle: radius must be float, not True."),
        ({"type": "Circle", "radius": 1.0, "open": 1}, "Circle: open must be bool, not 1."),
        ({"type": "Circle", "radius": 1.0, "name": 7}, "Circle: name must be str, not 7."),
        ({"type": "Box", "sides": 2.5}, "Box: sides must be int | tuple[int, int], not 2.5."),
        ({"type": "Box", "sides": [1, 2, 3]}, "Box: sides must be int | tuple[int, int], not [1, 2, 3]."),
        ({"type": "Box", "sides": [1, "2"]}, "Box: sides must be int | tuple[int, int], not [1, '2']."),
        ({"type": "Box", "sides": 1, "tags": "abc"}, "Box: tags must be list[str], not 'abc'."),
        ({"type": "Box", "sides": 1, "tags": ["a", 1]}, "Box: tags must be list[str], not ['a', 1]."),
        ({"type": "Box", "sides": 1, "rates": [1, None]}, "Box: rates must be tuple[float, ...], not [1, None]."),
        ({"type": "Box", "sides": 1, "inner": "Oval"}, "There is no shape 'Oval'; known are: Box, Circle."),
    ],
)
def test_a_table_that_does_not_fit_is_answered_by_one_sentence(table, message):
    with pytest.raises(UsageError) as caught:
        Shape.from_config(table)
    assert str(caught.value) == message
