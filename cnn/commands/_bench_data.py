"""`cnn bench --data`: how fast images get from where they are into batches, decoded, changed and normalised."""

import argparse
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cnn import registry
from cnn.commands import _common
from cnn.data.augmentation import Augmentation
from cnn.data.dataset import Dataset
from cnn.data.images import SUFFIXES, read_image
from cnn.data.stored import StoredImages
from cnn.layers import Flatten, Linear
from cnn.measure.benchmark import Job, busy, samples, spread
from cnn.measure.other_work import OtherWork
from cnn.model.sequential import Sequential
from cnn.system.threads import in_words, limit_threads
from cnn.terminal.printing import print_json, print_lines, print_table, print_text
from cnn.words import counted

DECODED = 256
"""Image files that are decoded in a run."""
CHANGES = {
    "batches as they are": Augmentation(),
    "batches, mirrored and shifted": Augmentation(flip=True, pad_crop=4),
    "batches, cropped at random": Augmentation(random_crop=0.3),
}


def bench_data(options: argparse.Namespace) -> None:
    """Measures and prints the table."""
    options.dataset, options.data_dir, options.download, options.model = options.data, None, False, None
    data = _common.dataset_of(options)
    results, rates = list[dict[str, Any]](), dict[str, list[float]]()
    with OtherWork() as others:
        for count in _common.thread_counts(options.threads):
            with limit_threads(count):
                jobs = [_decoding(options, data, count)] if options.dataset == _common.OWN_IMAGES else []
                for name in _common.backend_names(options.backend):
                    jobs += _batches(data, name, options.batch_size)
                measured = samples(jobs, options.rounds)
            for job, times in zip(jobs, measured, strict=True):
                rates[f"{job.group} on {job.backend} with {in_words(count)}"] = [1 / seconds for seconds in times]
                low, high = spread(times)
                results.append(
                    {
                        "group": job.group,
                        "backend": job.backend,
                        "threads": count,
                        "images_per_second": job.images / times.median,
                        "images_per_second_low": job.images / high,
                        "images_per_second_high": job.images / low,
                    }
                )
    disturbed = busy(rates, others.share)
    where = "in a file that is mapped" if isinstance(data.train.images, StoredImages) else "in memory"
    if options.json:
        table = {"dataset": data.name, "images": len(data.train), "mapped": where != "in memory"}
        print_json(
            table | {"batch_size": options.batch_size, "rounds": options.rounds, "busy": disturbed, "results": results}
        )
        return
    size = data.train.images.nbytes / 1e6
    print_lines(
        {"data": f"{data.name}: {counted(len(data.train), 'image')} {data.train.images.dtype}, {size:,.0f} MB {where}"}
    )
    print(f"\nbatches of {options.batch_size}, medians of {counted(options.rounds, 'round')}")
    places = {group: place for place, group in enumerate(dict.fromkeys(each["group"] for each in results))}
    results.sort(key=lambda each: places[each["group"]])
    rows = [
        [
            each["group"],
            each["backend"],
            str(each["threads"]),
            f"{each['images_per_second']:,.0f}",
            f"{each['images_per_second_low']:,.0f}-{each['images_per_second_high']:,.0f}",
        ]
        for each in results
    ]
    print_table(["", "backend", "threads", "images/s", "middle 90 %"], rows, extra=["middle 90 %"], wide=options.wide)
    if disturbed:
        print_text(disturbed, style="warning")


def _decoding(options: argparse.Namespace, data: Dataset, count: int) -> Job:
    """Decodes some of the pictures, as is done once before the first run."""
    root = Path(data.source)
    root = root if root.is_dir() else root.parent
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = paths[:: max(1, len(paths) // DECODED)][:DECODED]
    height, width, channels = data.shape
    read = partial(read_image, size=(height, width), channels=channels, resize=options.resize or "crop")

    def run() -> None:
        with ThreadPoolExecutor(count) as pool:
            for _ in pool.map(read, paths):
                pass

    return Job("decoding, once for a set", "-", run, 0, len(paths))


def _batches(data: Dataset, name: str, batch: int) -> list[Job]:
    """Fills a network's input with batches in random order."""
    backend = registry.create(name)
    model = Sequential([Flatten(), Linear(len(data.classes))], data.shape, backend=backend)
    model.get_to_know(data.train)
    rng = np.random.default_rng(0)

    def run(augmentation: Augmentation) -> None:
        order = rng.integers(0, len(data.train), batch)
        model.load_images(data.train.images, order, augmentation.draw((batch, *data.shape), rng))

    fitting = {words: each for words, each in CHANGES.items() if each.pad_crop < min(data.shape[:2])}
    return [Job(words, name, partial(run, each), 0, batch) for words, each in fitting.items()]
