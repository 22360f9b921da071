"""Reads a CSV file of image files and their labels, in place of folders."""

import csv
from pathlib import Path

from cnn.errors import DataError, listed
from cnn.paths import check_file, reading

FILES = ("file", "filename", "path", "image", "image_path", "filepath")
LABELS = ("label", "class", "category", "target", "species", "breed")
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_MOST = 64 << 20


def read_table(table: Path) -> dict[str, list[tuple[Path, str]]]:
    """The (file, label) rows of each split: "train", and "val" and "test" if there is a column `split`.

    Files are named from the table's own folder. Raises DataError for a table without these columns, and for files that
    do not exist.
    """
    check_file(table, "table", DataError)
    with reading(table, "table", DataError):
        if table.stat().st_size > _MOST:
            raise DataError(f"{table} has more than {_MOST >> 20} MB; give one with a row for each image file.")
        try:
            with table.open(newline="", encoding="utf-8-sig") as file:
                sample = file.read(4096)
                file.seek(0)
                delimiter = max(",;\t", key=sample.partition("\n")[0].count)
                rows = list(csv.reader(file, delimiter=delimiter))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{table} is not a CSV file in UTF-8 ({error}); convert it.") from error
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    file_column, label_column = (
        next((head.index(name) for name in names if name in head), None) for names in (FILES, LABELS)
    )
    if file_column is None or label_column is None:
        raise DataError(
            f"{table} has the columns {listed(head) or 'none'}; its first line must name a column {FILES[0]} and a "
            f"column {LABELS[0]}, and may name split."
        )
    split_column = head.index("split") if "split" in head else None
    found: dict[str, list[tuple[Path, str]]] = {}
    absent = []
    for number, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        if len(row) != len(head) or not row[label_column].strip() or not row[file_column].strip():
            raise DataError(f"{table}, row {number}: there must be a cell in each of {len(head)} columns, none empty.")
        said = "train" if split_column is None else row[split_column].strip().lower()
        if said not in SPLITS:
            raise DataError(f"{table}, row {number}: split is {said!r}; give train, val or test.")
        path = table.parent / row[file_column].strip()
        with reading(path, "image", DataError):
            there = path.is_file()
        if not there:
            absent.append(row[file_column].strip())
        found.setdefault(SPLITS[said], []).append((path, row[label_column].strip()))
    if absent:
        raise DataError(f"{table} names files that do not exist: {listed(absent)}; correct it, or remove these rows.")
    return found
