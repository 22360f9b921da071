"""Image files as people have them: transparent, turned by a camera, of formats that are not meant, or no files."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn.data.border import border_levels, border_note, border_of
from cnn.data.images import image_header, read_image
from cnn.errors import DataError, UsageError

SHAPE = (4, 6)
INK = np.zeros(SHAPE, bool)
INK[0, :2] = INK[1, 0] = True
"""Where a drawing has ink, near one corner, so that every turn of it looks different."""


def transparent(mode: str) -> Image.Image:
    """Black ink on nothing."""
    alpha = Image.fromarray(np.where(INK, 255, 0).astype(np.uint8))
    image = Image.new("LA", (SHAPE[1], SHAPE[0]), (0, 0))
    image.putalpha(alpha)
    if mode in ("P", "L", "RGB"):
        # Colour number 1 or grey level 7 stands for transparent.
        image = Image.fromarray(np.where(INK, 0, 1 if mode == "P" else 7).astype(np.uint8))
        if mode == "P":
            image = image.convert("P")
            image.putpalette([0, 0, 0, 10, 20, 30])
        return image.convert(mode)
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB", "PA"])
def test_what_is_transparent_is_the_background(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.tif" if mode == "PA" else "x.png")
    if mode == "PA":
        transparent("RGBA").save(path)
    else:
        number = {"P": 1, "L": 7, "RGB": (7, 7, 7)}.get(mode)
        transparent(mode).save(path, **({} if number is None else {"transparency": number}))
    for channels in (1, 3):
        np.testing.assert_array_equal(read_image(path, channels=channels)[..., 0], np.where(INK, 0, 255))
    np.testing.assert_array_equal(read_image(path, channels=1, background=90)[..., 0], np.where(INK, 0, 90))
    assert image_header(path)[0] == SHAPE
    with pytest.raises(UsageError, match="background is 256; give a grey level from 0"):
        read_image(path, background=256)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    """The stored pixels are those that a camera in this orientation would store of the drawing."""
    upright = np.where(np.kron(INK, np.ones((8, 8))), 0, 255).astype(np.uint8)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {}
    image.save(tmp_path / f"x.{suffix}", exif=exif, **lossless)
    assert image_header(tmp_path / f"x.{suffix}")[0] == upright.shape
    found = read_image(tmp_path / f"x.{suffix}", channels=1)[..., 0]
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() < 40


def test_damaged_exif_data_leave_the_image_as_it_is(tmp_path: Path) -> None:
    Image.new("L", (6, 4), 50).save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\xff broken")
    assert image_header(tmp_path / "x.jpg") == ((4, 6), 1, False)
    assert read_image(tmp_path / "x.jpg").shape == (4, 6, 1)


def test_no_program_is_run_for_a_file_of_another_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "digit.png"
    Image.new("L", (6, 4)).save(path, format="EPS")
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("ran a program"))
    with pytest.raises(DataError, match=r"digit\.png cannot be read as an image, it is none of .*; convert, replace"):
        read_image(path)


def test_what_is_no_file_is_said_as_such(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path / "none.png", r"There is no image .*none\.png; check the path"),
        (tmp_path, "is a folder; name the image itself"),
        (tmp_path / "pipe.png", "is a pipe or a device; copy its content into a file"),
        (tmp_path / "loop.png", "is a link that leads back to itself"),
        (tmp_path / "file" / "x.png", "a part of this path is a file, not a folder"),
        (tmp_path / ("x" * 300 + ".png"), "is too long for this system"),
        (Path("zero\0byte.png"), "has a zero byte"),
    ):
        with pytest.raises(DataError, match=message):
            read_image(path)


def test_the_border_tells_ink_on_paper_from_light_on_dark() -> None:
    images = np.zeros((100, 4, 5, 3), np.uint8)
    images[:, 1:-1, 1:-1] = 200
    images[:, 0] = 20
    np.testing.assert_allclose(border_levels(images), 20 * (5 + 1 + 1) / 18)
    dark = border_of(images)
    assert dark[0] == dark[1] < 10
    assert border_note(50, dark) is None
    assert "add --invert" in (border_note(250, dark) or "")
    assert "has seen nothing like it" in (border_note(128, dark) or "")
    assert border_note(0, (0.0, 250.0)) is border_note(255, (0.0, 250.0)) is None
