"""What there is to say of runs, as JSON values: every number of the page and of the text is here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnn.backend import Backend
from cnn.data.dataset import load_dataset
from cnn.data.views import NONE, VIEWS, described
from cnn.errors import CnnError, UsageError
from cnn.measure.profiler import profile_step
from cnn.model.architecture import Architecture, Recipe
from cnn.model.modelfile import architecture_of, load_model
from cnn.report.evaluation import Evaluation
from cnn.report.layer_energy import layer_energy
from cnn.report.numbers import duration, joules_text, percent, rate_text
from cnn.report.pictures import Picture, activation_pictures, filters_picture, image_picture
from cnn.report.run import OLD, Run
from cnn.report.run_charts import frontier
from cnn.words import counted

REPEATS = 5
"""Steps of the profile."""
MOST_FLOPS = 50e9
"""Of a step that is profiled for a report: some seconds on one core."""
ALIKE = ("options", "started", "command", "machine")
"""Settings that are no settings of the training itself."""


@dataclass
class Seen:
    """The pictures of a run: images answered wrongly in the order of the mistakes, filters, and maps of an image."""

    mistakes: list[Picture] = field(default_factory=list)
    filters: Picture | None = None
    image: Picture | None = None
    maps: list[Picture] = field(default_factory=list)


def describe_run(run: Run) -> dict[str, Any]:
    """What the files of a run say, without computing anything."""
    epochs = [each.row() for each in run.epochs]
    last, best = run.epochs[-1], run.best_epoch
    result = run.result
    accuracy, of = result.get("test_accuracy"), "test"
    if accuracy is None:
        chosen = run.epochs[best - 1] if best else last
        accuracy, of = (last.train_accuracy, "training") if best is None else (chosen.val_accuracy, "validation")
    images = sum(each.seconds * each.images_per_second for each in run.epochs)
    energy_kind = next((each.energy for each in run.epochs if each.joules is None), last.energy)
    settings = run.settings
    found = {
        "label": run.label,
        "folder": str(run.folder),
        "model": run.model,
        "dataset": run.dataset,
        "finished": bool(result),
        "stopped_early": bool(result.get("stopped_early")),
        "accuracy": accuracy,
        "accuracy_of": of,
        "test_images": settings.get("test_images"),
        "test_loss": result.get("test_loss"),
        "tta": result.get("tta") if result.get("tta") in VIEWS else NONE,
        "tta_accuracy": result.get("tta_test_accuracy"),
        "best_epoch": best,
        "saved_epoch": result.get("saved_epoch"),
        "seconds": run.seconds,
        "images_per_second": images / run.seconds,
        "joules": run.joules,
        "joules_per_image": None if run.joules is None else run.joules / images,
        "energy": energy_kind,
        "energy_source": last.energy_source,
        "backend": settings.get("backend") or result.get("backend"),
        "library": settings.get("library") or result.get("library"),
        "threads": settings.get("threads") or result.get("threads"),
        "ranks": settings.get("ranks") or result.get("ranks"),
        "seed": settings.get("seed", result.get("seed")),
        "machine": settings.get("machine") or OLD,
        "started": settings.get("started") or OLD,
        "command": settings.get("command") or OLD,
        "again": run.again,
        "settings": {name: value for name, value in settings.items() if name not in ALIKE},
        "epochs": epochs,
        "test": None,
        "test_reason": None,
        "notes": [],
        "image_probabilities": [],
        "layers": None,
        "layers_reason": None,
    }
    return {"sentence": sentence(found), **found}


def sentence(run: Mapping[str, Any]) -> str:
    """What a run came to, in one sentence."""
    epochs = counted(len(run["epochs"]), "epoch")
    test = f"{run['test_images']:,} test" if run["test_images"] and run["accuracy_of"] == "test" else run["accuracy_of"]
    reached = f"{percent(run['accuracy'])} on the {test} images of {run['dataset']}"
    if run["tta_accuracy"] is not None and run["tta"] != NONE:
        reached += f" ({percent(run['tta_accuracy'])} {described(run['tta'])})"
    energy = f"energy {run['energy']}" if run["joules"] is None else f"{joules_text(run['joules'])} ({run['energy']})"
    spent = f"{duration(run['seconds'])} of training at {rate_text(run['images_per_second'])}, {energy}"
    state = "" if run["finished"] else " The run has not ended."
    return f"{run['model']} reached {reached} after {epochs}: {spent}.{state}"


def examine_run(
    found: dict[str, Any],
    run: Run,
    backend: Backend,
    threads: int,
    *,
    data_dir: str | None = None,
    profile: bool = True,
) -> Seen:
    """Adds to `found` what the saved model does on the test images and the time by layer; returns the pictures.

    What cannot be computed, for want of the model or the data, is left out, and `found` says why.
    """
    seen = Seen()
    if run.model_file is None:
        found["test_reason"] = found["layers_reason"] = f"{run.folder} has no saved model; the run has not ended"
        return seen
    try:
        _evaluate(found, run, backend, data_dir, seen)
    except CnnError as error:
        found["test_reason"] = str(error)
    if profile:
        try:
            _profile(found, run, backend, threads)
        except CnnError as error:
            found["layers_reason"] = str(error)
    return seen


def _evaluate(found: dict[str, Any], run: Run, backend: Backend, data_dir: str | None, seen: Seen) -> None:
    model = load_model(run.folder, backend=backend)
    seen.filters = filters_picture(model)
    name = run.settings.get("dataset") or run.options.get("dataset") or run.result.get("dataset")
    if not isinstance(name, str):
        raise UsageError(f"{run.folder} does not say on which data it was trained.")
    data = load_dataset(name, data_dir=data_dir or run.options.get("data_dir"))
    answers = Evaluation.of(model, data.test)
    found["test"] = answers.to_dict()
    found["test_images"] = len(data.test)
    found["notes"] = list(data.notes)
    for each in found["test"]["mistakes"]:
        seen.mistakes.append(image_picture(data.test.images[each["image"]]))
    image = data.test.images[0]
    likeliest = sorted(zip(answers.probabilities[0], model.classes, strict=True), reverse=True)[:3]
    found["image_probabilities"] = [{"class": name, "probability": float(each)} for each, name in likeliest]
    seen.image = image_picture(image, f"test image 0: {model.classes[data.test.labels[0]]}")
    seen.maps = activation_pictures(model, image)


def _profile(found: dict[str, Any], run: Run, backend: Backend, threads: int) -> None:
    described = architecture_of(str(run.folder))
    batch = int(run.settings.get("batch_size") or 64)
    architecture = Architecture(described.name, described.layers, described.input_shape, Recipe())
    flops = 6 * sum(node.macs for node in architecture.network.nodes) * batch
    if flops > MOST_FLOPS:
        found["layers_reason"] = (
            f"a step of {batch} images takes {flops / 1e9:,.0f} GFLOP, too long for a report; "
            f"see cnn profile {run.folder} --batch-size {batch}"
        )
        return
    lines = profile_step(architecture, backend, batch, repeats=REPEATS)
    seconds = {(line.layer, line.direction): line.seconds for line in lines}
    watts = run.options.get("watts")
    energy = layer_energy(
        architecture,
        backend,
        batch,
        threads,
        seconds,
        training=True,
        watts=watts if isinstance(watts, int | float) and watts > 0 else None,
    )
    total = sum(seconds.values())
    found["layers"] = {
        "batch_size": batch,
        "backend": backend.name,
        "library": str(backend.library),
        "threads": threads,
        "repeats": REPEATS,
        "seconds": total,
        "energy": energy.kind,
        "energy_source": energy.source,
        "lines": [
            {
                "layer": line.layer,
                "direction": line.direction,
                "seconds": line.seconds,
                "share": line.seconds / total,
                "gemm_gflops": line.flops / line.gemm / 1e9 if line.gemm else None,
                "joules": energy.joules.get((line.layer, line.direction)),
            }
            for line in lines
        ],
    }


def describe_runs(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One or several runs with what tells them apart."""
    several = len(runs) > 1
    fronts = {cost: frontier(runs, cost) for cost in ("seconds", "joules")} if several else {}
    return {
        "sentence": _sentence(runs) if several else runs[0]["sentence"],
        "runs": list(runs),
        "differences": differences(runs) if several else [],
        "frontier": fronts,
    }


def differences(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings in which the runs are not all the same, with the value of each run; None where it has none."""
    tables = [_flat(run["settings"]) for run in runs]
    found = []
    for name in dict.fromkeys(name for table in tables for name in table):
        values = [table.get(name) for table in tables]
        if any(value != values[0] for value in values):
            found.append({"setting": name, "values": values})
    return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _sentence(runs: Sequence[Mapping[str, Any]]) -> str:
    """Which of several runs is the most accurate and which the cheapest, if they can be compared."""
    datasets = {(run["dataset"], run["accuracy_of"]) for run in runs}
    best = max(runs, key=lambda run: run["accuracy"] or 0.0)
    quick = min(runs, key=lambda run: run["seconds"])
    text = (
        f"Of {counted(len(runs), 'run')}, {best['label']} is the most accurate "
        f"({percent(best['accuracy'])} in {duration(best['seconds'])})"
    )
    if quick is not best:
        text += f", and {quick['label']} the quickest ({percent(quick['accuracy'])} in {duration(quick['seconds'])})"
    if len(datasets) > 1:
        text += "; they were not measured on the same images, so the accuracies are not to be ranked"
    return f"{text}."
