"""The parsers of IDX, CIFAR and image files: valid files give arrays, all else is one DataError and little memory."""

import contextlib
import gzip
import io
import os
import pickle
import struct
import tarfile
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import cnn.plugins as plugins
from cnn.data.dataset import Dataset
from cnn.errors import DataError

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
RNG = np.random.default_rng(0)
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def plugin(name: str, **changes: object) -> object:
    """The plug-in `name`, with class attributes changed so that small files suffice."""
    return type("Small", (plugins.load(plugins.DATASETS, name),), changes)()


@contextlib.contextmanager
def peak_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit


# ---------------------------------------------------------------------------------------------------------------- IDX


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IMAGES = RNG.integers(0, 256, (7, 28, 28), dtype=np.uint8)
LABELS = np.array([0, 9, 1, 8, 2, 7, 3], dtype=np.uint8)
VALID = {name: idx(IMAGES if "images" in name else LABELS) for name in NAMES}


def write_idx(folder: Path, packed: bool = False, **changed: bytes) -> Path:
    for name, raw in VALID.items():
        raw = changed.get(name.replace("-", "_"), raw)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(raw, 1) if packed else raw)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sub", ["", "mnist", "MNIST/raw"])
def test_idx_is_read_plain_and_gzipped_from_every_known_folder(tmp_path, packed, sub):
    (tmp_path / sub).mkdir(parents=True, exist_ok=True)
    write_idx(tmp_path / sub, packed)
    dataset = plugin("mnist").load([tmp_path / "nothing", tmp_path])
    np.testing.assert_array_equal(dataset.train.images, IMAGES[..., None])
    np.testing.assert_array_equal(dataset.test.labels, LABELS)
    assert dataset.train.labels.dtype == np.int64
    assert dataset.source == str(tmp_path / sub)
    assert len(dataset.notes) == 1
    assert "not the official files of mnist" in dataset.notes[0]


HEADER = VALID[NAMES[0]][:16]
BAD_IMAGES = {
    "empty": (b"", "within its header"),
    "header cut": (HEADER[:9], "within its header"),
    "truncated": (VALID[NAMES[0]][:-1], "5,487, fewer bytes than the 5,488"),
    "trailing byte": (VALID[NAMES[0]] + b"\0", "more bytes than the 5,488"),
    "not idx": (b"\x89PNG" + VALID[NAMES[0]][4:], "so it is not IDX"),
    "floats": (b"\0\0\x0d\3" + VALID[NAMES[0]][4:], "type code 13 instead of 8"),
    "dimensions": (b"\0\0\x08\2" + VALID[NAMES[0]][4:], "2 dimensions instead of 3"),
    "absurd size": (b"\0\0\x08\3" + b"\xff" * 12, "announces .4294967295, 4294967295, 4294967295"),
    "wrong size": (idx(np.zeros((7, 8, 8), np.uint8)), r"\(8, 8\) instead of \(28, 28\)"),
    "counts": (idx(np.zeros((6, 28, 28), np.uint8)), "6 images.*7 labels"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_idx_images_are_named(tmp_path, packed, case):
    raw, message = BAD_IMAGES[case]
    write_idx(tmp_path, packed, train_images_idx3_ubyte=raw)
    with pytest.raises(DataError, match=message) as caught:
        plugin("mnist").load([tmp_path])
    assert "train-images-idx3-ubyte" in str(caught.value)
    assert "again" in str(caught.value)


def test_label_out_of_range_is_named(tmp_path):
    write_idx(tmp_path, t10k_labels_idx1_ubyte=idx(np.full(7, 10, np.uint8)))
    with pytest.raises(DataError, match=r"t10k-labels.*label 10.*last class 9"):
        plugin("mnist").load([tmp_path])


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-9], lambda raw: b"no gzip" + raw, lambda raw: raw[:50] + b"\0" * 50]
)
def test_damaged_gzip_is_named(tmp_path, damage):
    write_idx(tmp_path, packed=True)
    path = tmp_path / f"{NAMES[0]}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz"):
        plugin("mnist").load([tmp_path])


def test_gzip_bomb_is_unpacked_no_further_than_the_header_says(tmp_path):
    write_idx(tmp_path, packed=True, train_images_idx3_ubyte=VALID[NAMES[0]] + bytes(1 << 26))
    with peak_below(8 << 20), pytest.raises(DataError, match="more bytes than"):
        plugin("mnist").load([tmp_path])


def test_header_that_announces_much_costs_no_memory(tmp_path):
    write_idx(tmp_path, train_images_idx3_ubyte=b"\0\0\x08\3" + struct.pack(">3I", 300_000, 28, 28))
    with peak_below(8 << 20), pytest.raises(DataError, match="0, fewer bytes"):
        plugin("mnist").load([tmp_path])


def damaged(valid: bytes) -> st.SearchStrategy[bytes]:
    """Random bytes, and the valid file with a part replaced, removed or inserted."""
    position = st.integers(0, len(valid))
    spliced = st.builds(
        lambda at, cut, new: valid[:at] + new + valid[at + cut :], position, st.integers(0, 40), st.binary(max_size=12)
    )
    return st.one_of(st.binary(max_size=200), spliced)


Change = Callable[[bytes], bytes]


def unchanged(raw: bytes) -> bytes:
    return raw


def halved(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def inside_gzip(change: Change) -> Change:
    """The change, applied to the unpacked content."""
    return lambda raw: gzip.compress(change(gzip.decompress(raw)), 1)


def loads_or_is_refused(load: Callable[..., Dataset], *arguments: object) -> None:
    """`load`, from a new folder, gives a data set or a DataError."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(DataError):
        dataset = load(Path(folder), *arguments)
        assert isinstance(dataset, Dataset)
        assert dataset.train.images.dtype == np.uint8


def changed_idx(folder: Path, name: str, packed: bool, change: Change) -> Dataset:
    """MNIST after a change to one of its files."""
    path = write_idx(folder, packed) / (f"{name}.gz" if packed else name)
    path.write_bytes(change(path.read_bytes()))
    return plugin("mnist").load([folder])


@FUZZ
@given(name=st.sampled_from(NAMES), data=st.data(), packed=st.booleans())
def test_idx_fuzz(name, data, packed):
    loads_or_is_refused(changed_idx, name, packed, lambda raw: data.draw(damaged(raw)))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_idx_that_the_fuzz_damages_loads_as_it_is(tmp_path, name, packed):
    def last_byte(raw: bytes) -> bytes:
        return raw[:-1] + bytes([raw[-1] ^ 1])

    for change in (unchanged, inside_gzip(last_byte) if packed else last_byte):
        dataset = changed_idx(tmp_path, name, packed, change)
        found = (dataset.train.images, dataset.train.labels, dataset.test.images, dataset.test.labels)
        for each, array in zip(NAMES, found, strict=True):
            expected = (IMAGES[..., None] if "images" in each else LABELS).copy()
            expected.flat[-1] ^= each == name and change is not unchanged
            np.testing.assert_array_equal(array, expected)
    with pytest.raises(DataError, match=name):
        changed_idx(tmp_path, name, packed, halved)


# -------------------------------------------------------------------------------------------------------------- CIFAR

SMALL = {"train_size": 10, "test_size": 3}
COUNTS = {**{f"data_batch_{i}": 2 for i in range(1, 6)}, "test_batch": 3}
PLANAR = {name: RNG.integers(0, 256, (count, 3072), dtype=np.uint8) for name, count in COUNTS.items()}
BATCH_LABELS = {name: RNG.integers(0, 10, count).tolist() for name, count in COUNTS.items()}


def binary_batch(name: str) -> bytes:
    return b"".join(bytes([label]) + row.tobytes() for label, row in zip(BATCH_LABELS[name], PLANAR[name], strict=True))


def pickled_batch(
    name: str, data: np.ndarray | None = None, labels: list[int] | None = None, key: bytes = b"labels"
) -> bytes:
    """A batch as pickled by Python 2 and the NumPy of that time: protocol 2, byte strings, numpy.core."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    data = PLANAR[name] if data is None else data
    listed = b"](" + b"".join(number(label) for label in labels or BATCH_LABELS[name]) + b"e"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R(K\3" + text(b"|") + b"NNN" + number(-1) * 2 + b"K\0tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R(K\1"
    array += b"".join(number(side) for side in data.shape) + b"\x86" + dtype + b"\x89" + text(data.tobytes()) + b"tb"
    return b"\x80\2}q\0(" + text(b"batch_label") + text(b"x") + text(key) + listed + text(b"data") + array + b"u."


def write_cifar(folder: Path, layout: str, **changed: bytes) -> Path:
    """The six small batches, as a folder or a .tar.gz of it."""
    pickled = "py" in layout
    inner = "cifar-10-batches-py" if pickled else "cifar-10-batches-bin"
    files = {
        f"{name}{'' if pickled else '.bin'}": pickled_batch(name) if pickled else binary_batch(name) for name in COUNTS
    }
    files = {name: changed.get(name.removesuffix(".bin"), raw) for name, raw in files.items()}
    if layout.endswith(".tar.gz"):
        write_tar(folder / layout, [(f"{inner}/{name}", raw) for name, raw in files.items()])
    else:
        (folder / inner).mkdir()
        for name, raw in files.items():
            (folder / inner / name).write_bytes(raw)
    return folder


def write_tar(path: Path, members: list[tuple[str, bytes]], *extra: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for info in extra:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
        for name, raw in members:
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))


LAYOUTS = ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", "cifar-10-batches-py", "cifar-10-python.tar.gz")


def cifar(folder: Path) -> Dataset:
    return plugin("cifar10", **SMALL).load([folder])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cifar_is_read_from_every_layout(tmp_path, layout):
    dataset = cifar(write_cifar(tmp_path, layout))
    planar = np.concatenate([PLANAR[f"data_batch_{i}"] for i in range(1, 6)]).reshape(10, 3, 32, 32)
    for image, channel, row, column in ((0, 0, 0, 1), (3, 1, 5, 0), (9, 2, 31, 30)):
        assert dataset.train.images[image, row, column, channel] == planar[image, channel, row, column]
    np.testing.assert_array_equal(dataset.train.images, planar.transpose(0, 2, 3, 1))
    assert dataset.train.labels.tolist() == [n for i in range(1, 6) for n in BATCH_LABELS[f"data_batch_{i}"]]
    assert dataset.test.labels.tolist() == BATCH_LABELS["test_batch"]
    assert dataset.source == str(tmp_path / layout)
    assert "not the official files of cifar10" in dataset.notes[0]
    assert dataset.classes[3] == "cat"


def test_cifar_folder_itself_may_be_named(tmp_path):
    write_cifar(tmp_path, "cifar-10-batches-bin")
    assert len(cifar(tmp_path / "cifar-10-batches-bin").test) == 3


@pytest.mark.parametrize("pickled", [False, True])
def test_cifar100_uses_the_fine_labels(tmp_path, pickled):
    labels, rows = [99, 5, 60], PLANAR["test_batch"]
    folder = tmp_path / ("cifar-100-python" if pickled else "cifar-100-binary")
    folder.mkdir()
    for name in ("train", "test"):
        raw = b"".join(bytes([7, label]) + row.tobytes() for label, row in zip(labels, rows, strict=True))
        if pickled:
            raw = pickled_batch("test_batch", labels=labels, key=b"fine_labels")
        (folder / (name if pickled else f"{name}.bin")).write_bytes(raw)
    dataset = plugin("cifar100", train_size=3, test_size=3).load([tmp_path])
    assert dataset.train.labels.tolist() == labels
    assert dataset.test.images[2, 0, 1, 0] == rows[2, 1]
    assert len(dataset.classes) == len(set(dataset.classes)) == 100
    assert list(dataset.classes) == sorted(dataset.classes)


@pytest.mark.parametrize("protocol", [3, 4])
def test_batches_pickled_by_python_3_are_read(tmp_path, protocol):
    raw = pickle.dumps({"data": PLANAR["test_batch"], "labels": BATCH_LABELS["test_batch"]}, protocol=protocol)
    dataset = cifar(write_cifar(tmp_path, "cifar-10-batches-py", test_batch=raw))
    np.testing.assert_array_equal(dataset.test.images, PLANAR["test_batch"].reshape(3, 3, 32, 32).transpose(0, 2, 3, 1))


@pytest.mark.parametrize("layout", ["cifar-10-batches-bin", "cifar-10-binary.tar.gz"])
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (binary_batch("test_batch")[:-1], "9,218 bytes"),
        (binary_batch("test_batch") + b"x", "9,220 bytes"),
        (b"", " 0 bytes"),
        (b"\x0a" + binary_batch("test_batch")[1:], "to 10 where 0 to 9"),
    ],
)
def test_bad_binary_batch_is_named(tmp_path, layout, raw, message):
    write_cifar(tmp_path, layout, test_batch=raw)
    with pytest.raises(DataError, match=message) as caught:
        cifar(tmp_path)
    assert "test_batch.bin" in str(caught.value)


class Evil:
    """Calls a function when it is unpickled as usual."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.function, self.arguments


ROWS, GOOD = PLANAR["test_batch"], BATCH_LABELS["test_batch"]
BAD_PICKLES = {
    "foreign": (pickle.dumps(Evil(os.system, "false"), protocol=2), r"asks for \w+\.system.*do not trust"),
    "eval": (b"cbuiltins\neval\n(U\x011tR.", "asks for builtins.eval"),
    "dotted": (b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.", "asks for numpy.ndarray.dumps"),
    "extension": (b"\x80\x02\x82\x01.", "not a readable pickle"),
    "persistent": (b"U\x01xQ.", "asks for persistent object"),
    "empty": (b"", "not a readable pickle"),
    "truncated": (pickled_batch("test_batch")[:-50], "not a readable pickle"),
    "no dict": (pickle.dumps([1], protocol=2), "a list instead of a dict"),
    "no labels": (pickled_batch("test_batch", key=b"other"), "no list of integers under 'labels'"),
    "label type": (pickle.dumps({"labels": ["x"], "data": ROWS}, protocol=3), "no list of integers"),
    "label size": (pickle.dumps({"labels": [1 << 80] * 3, "data": ROWS}, protocol=3), "no list of integers"),
    "no array": (pickle.dumps({"labels": GOOD, "data": 5}, protocol=3), "no array under 'data'"),
    "floats": (pickle.dumps({"labels": GOOD, "data": ROWS[:, :768].astype("f4")}, protocol=3), "unsigned bytes"),
    "fortran": (pickle.dumps({"labels": GOOD, "data": np.asfortranarray(ROWS)}, protocol=3), "row-major"),
    "objects": (pickle.dumps({"labels": GOOD, "data": np.array([[None]])}, protocol=3), "unsigned bytes"),
    "shape": (pickle.dumps({"labels": GOOD, "data": ROWS[:, :9]}, protocol=3), "array of shape"),
    "rows": (pickled_batch("test_batch", data=ROWS[:2]), "2 images and 3 labels where 3"),
    "labels": (pickled_batch("test_batch", labels=[1, 2]), "3 images and 2 labels where 3"),
    "label range": (pickled_batch("test_batch", labels=[1, -2, 3]), "labels from -2 to 3"),
    "too long": (bytes(20_000), "20,000 bytes, more than"),
    "memo bomb": (b"\x80\x02Nr\xff\xff\xff\xff.", "memo position 4294967295"),
    "huge array": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(J\xff\xff\xff\x7ftU\x01btR.",
        "instead of a dict",
    ),
}


@pytest.mark.parametrize("layout", ["cifar-10-batches-py", "cifar-10-python.tar.gz"])
@pytest.mark.parametrize("case", BAD_PICKLES)
def test_bad_pickle_is_named(tmp_path, layout, case):
    raw, message = BAD_PICKLES[case]
    write_cifar(tmp_path, layout, test_batch=raw)
    with peak_below(4 << 20), pytest.raises(DataError, match=message) as caught:
        cifar(tmp_path)
    assert "test_batch" in str(caught.value)


def test_a_foreign_pickle_runs_nothing(tmp_path):
    trace = tmp_path / "trace"
    raw = pickle.dumps(Evil(os.mkdir, str(trace)), protocol=2)
    write_cifar(tmp_path, "cifar-10-batches-py", data_batch_1=raw)
    with pytest.raises(DataError, match="mkdir"):
        cifar(tmp_path)
    assert not trace.exists()
    pickle.loads(raw)
    assert trace.exists()


MEMBERS = [(f"cifar-10-batches-bin/{name}.bin", binary_batch(name)) for name in COUNTS]


def tar_info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def test_foreign_members_are_passed_over_and_nothing_is_extracted(tmp_path):
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    strange = [
        tar_info("../../escaped", 5),
        tar_info("/tmp/escaped", 5),
        tar_info("link", 0, tarfile.SYMTYPE, "/etc/passwd"),
    ]
    write_tar(folder / "cifar-10-binary.tar.gz", MEMBERS, *strange)
    assert len(cifar(folder).train) == 10
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["cifar-10-binary.tar.gz"]


TEST_MEMBER = "cifar-10-batches-bin/test_batch.bin"
BAD_TARS = {
    "symbolic link": ([tar_info(TEST_MEMBER, 0, tarfile.SYMTYPE, "/etc/passwd")], MEMBERS, "is a link"),
    "hard link": ([tar_info(TEST_MEMBER, 0, tarfile.LNKTYPE, "/etc/passwd")], MEMBERS, "is a link"),
    "twice": ([], [*MEMBERS, MEMBERS[0]], "present twice"),
    "too long": ([tar_info(TEST_MEMBER, 50_000)], MEMBERS[:-1], "50,000 bytes, more than 9,219"),
    "absent": ([], MEMBERS[:-1], "lacks cifar-10-batches-bin/test_batch.bin"),
    "bomb": ([tar_info("padding", 1 << 26)], MEMBERS, "unpacks to more than"),
    "long name bomb": ([tar_info("padding", 1 << 26, tarfile.GNUTYPE_LONGNAME)], MEMBERS, "unpacks to more than"),
    "header bomb": ([tar_info("padding", 1 << 26, tarfile.XHDTYPE)], MEMBERS, "unpacks to more than"),
}


@pytest.mark.parametrize("case", BAD_TARS)
def test_bad_archive_is_named(tmp_path, case):
    extra, members, message = BAD_TARS[case]
    write_tar(tmp_path / "cifar-10-binary.tar.gz", members, *extra)
    with peak_below(64 << 20), pytest.raises(DataError, match=message) as caught:
        cifar(tmp_path)
    assert "cifar-10-binary.tar.gz" in str(caught.value)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-20], lambda raw: raw[:2000], lambda raw: b"no archive", lambda raw: b""]
)
def test_damaged_archive_is_named(tmp_path, damage):
    path = write_cifar(tmp_path, "cifar-10-binary.tar.gz") / "cifar-10-binary.tar.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz"):
        cifar(tmp_path)


def changed_cifar(folder: Path, layout: str, change: Change) -> Dataset:
    """The small CIFAR-10 after a change to its test batch or to its archive."""
    inside = {"cifar-10-batches-bin": "test_batch.bin", "cifar-10-batches-py": "test_batch"}
    path = write_cifar(folder, layout) / layout / inside.get(layout, "")
    path.write_bytes(change(path.read_bytes()))
    return cifar(folder)


PIXELS = PLANAR["test_batch"].tobytes()


def around_pixels(change: Change) -> Change:
    """The change, applied to a pickle without its pixels, which are then restored."""

    def changed(raw: bytes) -> bytes:
        at = raw.index(PIXELS)
        opcodes = change(raw[:at] + raw[at + len(PIXELS) :])
        return opcodes[:at] + PIXELS + opcodes[at:]

    return changed


@FUZZ
@given(layout=st.sampled_from(["cifar-10-batches-bin", "cifar-10-batches-py"]), data=st.data())
def test_cifar_batch_fuzz(layout, data):
    loads_or_is_refused(changed_cifar, layout, lambda raw: data.draw(damaged(raw)))


@FUZZ
@given(data=st.data())
def test_pickle_opcode_fuzz(data):
    """The damage hits the opcodes, which are few compared with the pixels."""
    loads_or_is_refused(changed_cifar, "cifar-10-batches-py", around_pixels(lambda raw: data.draw(damaged(raw))))


# Damage to the packed bytes seldom gets past gzip's checks: the tar inside is damaged as often.
@FUZZ
@given(data=st.data(), where=st.sampled_from([unchanged, inside_gzip]))
def test_archive_fuzz(data, where):
    loads_or_is_refused(changed_cifar, "cifar-10-binary.tar.gz", where(lambda raw: data.draw(damaged(raw))))


@pytest.mark.parametrize(
    ("layout", "where", "refusal"),
    [
        ("cifar-10-batches-bin", unchanged, r"test_batch\.bin has 4,609 bytes"),
        ("cifar-10-batches-py", unchanged, "test_batch is not a readable pickle"),
        ("cifar-10-batches-py", around_pixels, "test_batch is not a readable pickle"),
        ("cifar-10-binary.tar.gz", unchanged, r"cifar-10-binary\.tar\.gz"),
        ("cifar-10-binary.tar.gz", inside_gzip, r"cifar-10-binary\.tar\.gz"),
    ],
)
def test_cifar_that_the_fuzz_damages_loads_as_it_is(tmp_path, layout, where, refusal):
    def last_row_inverted(raw: bytes) -> bytes:
        row = PIXELS[-3072:]
        assert raw.count(row) == 1
        return raw.replace(row, bytes(255 - value for value in row))

    def test_set(name: str, change: Change) -> np.ndarray:
        (tmp_path / name).mkdir()
        dataset = changed_cifar(tmp_path / name, layout, change)
        assert dataset.test.labels.tolist() == BATCH_LABELS["test_batch"]
        return dataset.test.images.transpose(0, 3, 1, 2).reshape(3, 3072)

    np.testing.assert_array_equal(test_set("sound", where(unchanged)), PLANAR["test_batch"])
    inverted = test_set("inverted", inside_gzip(last_row_inverted) if "gz" in layout else last_row_inverted)
    np.testing.assert_array_equal(inverted[:2], PLANAR["test_batch"][:2])
    np.testing.assert_array_equal(inverted[2], 255 - PLANAR["test_batch"][2])
    with pytest.raises(DataError, match=refusal):
        test_set("halved", where(halved))


# ------------------------------------------------------------------------------------------------------- image folders


def write_folder(root: Path, sizes: dict[str, list[tuple[int, int]]], mode: str = "RGB", suffix: str = "png") -> Path:
    for name, listed in sizes.items():
        (root / name).mkdir(parents=True)
        for number, (height, width) in enumerate(listed):
            shape = (height, width, 3) if mode == "RGB" else (height, width)
            pixels = np.full(shape, 10 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:03}.{suffix}")
    return root


def test_damaged_images_are_named(tmp_path):
    write_folder(tmp_path, {"a": [(8, 8)] * 4, "b": [(8, 8)] * 4})
    path = tmp_path / "b" / "002.png"
    good = path.read_bytes()
    assert len(plugin("folder").load([tmp_path]).train) == 6
    for raw in (good[:-30], good[:45], b"", b"no image", good[:40] + b"\0\0\0" + good[43:]):
        path.write_bytes(raw)
        with pytest.raises(DataError, match=r"002\.png.*replace or remove"):
            plugin("folder").load([tmp_path])


def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path):
    write_folder(tmp_path, {"a": [(8, 8)] * 4, "b": [(8, 8)] * 4})
    Image.new("1", (8000, 8000)).save(tmp_path / "a" / "big.png")
    with pytest.raises(DataError, match=r"big\.png has 8000 x 8000 pixels, more than 50,000,000"):
        plugin("folder").load([tmp_path])
    raw = bytearray((tmp_path / "a" / "000.png").read_bytes())
    for side in (10_000, 60_000):
        # The header's width and height, without the pixels: below and above the size at which Pillow itself refuses.
        raw[16:24] = struct.pack(">2I", side, side)
        raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
        (tmp_path / "a" / "big.png").write_bytes(raw)
        with pytest.raises(DataError, match=r"big\.png has more than 50,000,000 pixels"):
            plugin("folder").load([tmp_path])


def test_pixels_that_do_not_fit_16_bits_are_refused(tmp_path):
    write_folder(tmp_path, {"a": [(8, 8)] * 4, "b": [(8, 8)] * 4})
    Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32)).save(tmp_path / "a" / "deep.tif")
    with pytest.raises(DataError, match=r"deep\.tif has pixels of the kind F; convert it to grey or RGB of 8 bits"):
        plugin("folder").load([tmp_path])


def changed_folder(folder: Path, suffix: str, change: Change) -> Dataset:
    """Two classes of three images after a change to one of those, number 1 of the first class."""
    write_folder(folder, {"a": [(8, 8)] * 3, "b": [(8, 8)] * 3}, suffix=suffix)
    path = folder / "a" / f"001.{suffix}"
    path.write_bytes(change(path.read_bytes()))
    return plugin("folder").load([folder])


FORMATS = ["png", "jpg", "gif", "bmp", "webp", "tif"]


@FUZZ
@given(data=st.data(), suffix=st.sampled_from(FORMATS))
def test_image_fuzz(data, suffix):
    loads_or_is_refused(changed_folder, suffix, lambda raw: data.draw(damaged(raw)))


@pytest.mark.parametrize("suffix", FORMATS)
def test_images_that_the_fuzz_damages_load_as_they_are(tmp_path, suffix):
    for name, change in (("sound", unchanged), ("followed", lambda raw: raw + b"more")):
        dataset = changed_folder(tmp_path / name, suffix, change)
        images = np.concatenate([dataset.train.images, dataset.test.images]).astype(int)
        assert images.shape == (6, 8, 8, 3)
        # Each image has one grey level, which some of the formats keep only roughly.
        assert np.ptp(images, axis=(1, 2, 3)).max() <= 2
        np.testing.assert_allclose(np.sort(images.mean(axis=(1, 2, 3))), [0, 0, 10, 10, 20, 20], atol=2)
    with pytest.raises(DataError, match=rf"001\.{suffix}.*replace or remove"):
        changed_folder(tmp_path / "halved", suffix, halved)
