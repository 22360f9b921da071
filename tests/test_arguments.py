"""What a program may pass: NumPy's numbers and lists where Python's are meant; one sentence for anything else."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

import cnn
from cnn.data.dataset import Dataset, Split
from cnn.data.preprocessing import Preprocessing
from cnn.energy.meters import open_meter
from cnn.errors import CnnError
from cnn.initializers import Gaussian
from cnn.layers import BatchNorm, Conv2D, Dropout, Flatten, Linear, LocalResponseNorm, MaxPool2D, ReLU
from cnn.losses import MeanSquaredError
from cnn.model.architecture import Recipe
from cnn.model.modelfile import load_model, save_model
from cnn.model.sequential import Sequential
from cnn.optimizers import SGD, Adam
from cnn.schedules import Constant, MultiStep, Warmup
from cnn.system.threads import budget, limit_threads
from cnn.training.fitting import fit
from cnn.training.trainer import Trainer

RNG = np.random.default_rng(0)
SPLIT = Split(RNG.integers(0, 256, (6, 6, 6, 1), np.uint8), np.arange(6) % 3)


def small(**settings):
    return Sequential([Flatten(), Linear(3)], (6, 6, 1), **{"backend": "numpy", **settings})


@pytest.mark.parametrize(
    ("with_numpy", "plain"),
    [
        (lambda: Linear(np.arange(9).max() + 1, bias=np.True_), Linear(9)),
        (lambda: Conv2D(np.int64(4), np.int32(5), stride=np.array([1, 2])), Conv2D(4, 5, stride=(1, 2))),
        (lambda: Conv2D(4, (np.int64(3), 3), padding=np.uint8(1)), Conv2D(4, (3, 3), padding=1)),
        (lambda: Conv2D(4, 3, activation=np.str_("relu")), Conv2D(4, 3, activation="relu")),
        (lambda: Conv2D(1, 1, connections=np.array([[0, 1]])), Conv2D(1, 1, connections=[[0, 1]])),
        (lambda: Linear(3, weight_multipliers=np.array([1.0, 0.0])), Linear(3, weight_multipliers=(1.0, 0.0))),
        (lambda: MaxPool2D(np.int64(2), np.int64(1)), MaxPool2D(2, 1)),
        (lambda: BatchNorm(np.float32(0.5), np.float64(1e-3)), BatchNorm(0.5, 1e-3)),
        (lambda: LocalResponseNorm(np.int16(3)), LocalResponseNorm(3)),
        (lambda: Dropout(np.float16(0.25)), Dropout(0.25)),
        (lambda: Gaussian(np.float32(0.5)), Gaussian(0.5)),
        (lambda: Constant(np.float32(0.5)), Constant(0.5)),
        (lambda: MultiStep(np.float64(0.1), np.array([3, 5])), MultiStep(0.1, (3, 5))),
        (lambda: Warmup(Constant(0.5), np.int64(3)), Warmup(Constant(0.5), 3)),
        (lambda: SGD(np.float32(0.5), nesterov=np.True_), SGD(0.5, nesterov=True)),
        (lambda: Adam(weight_decay=np.float32(0.5)), Adam(weight_decay=0.5)),
        (lambda: MeanSquaredError(np.float32(-1), np.int64(2)), MeanSquaredError(-1.0, 2)),
    ],
)
def test_numpy_scalars_and_arrays_are_settings(with_numpy, plain):
    assert json.dumps(with_numpy().config()) == json.dumps(plain.config())


def test_a_model_made_of_numpy_scalars_is_saved(tmp_path):
    labels = np.array(["cat", "dog", "eel"])
    net = Sequential(
        [Flatten(), Linear(np.int64(3))],
        np.array([6, 6, 1]),
        classes=np.unique(labels),
        name=np.str_("mine"),
        preprocessing=Preprocessing(np.float32(0.5)),
        backend="numpy",
        seed=np.int64(3),
    )
    trainer = Trainer(
        net,
        SPLIT,
        schedule=Constant(np.float32(0.25)),
        batch_size=np.int64(4),
        augmentation=cnn.Augmentation(np.True_, np.int64(1)),
        checkpoint=tmp_path / "checkpoint",
    )
    trainer.run(np.int64(1))
    trainer.resume()
    save_model(net, tmp_path / "model")
    again = load_model(tmp_path / "model", backend="numpy")
    assert again.classes == ("cat", "dog", "eel")
    assert again.config() == net.config()
    assert small(classes=np.unique([3, 7, 5])).classes == ("3", "5", "7")
    assert Dataset("d", SPLIT, SPLIT, np.unique(labels)).classes == ("cat", "dog", "eel")
    assert repr(Recipe(epochs=np.int64(2), pixel_scale=np.float32(0.5))) == repr(Recipe(epochs=2, pixel_scale=0.5))


def test_lists_and_other_whole_numbers_are_labels_indices_and_seeds():
    split = Split(SPLIT.images, SPLIT.labels.tolist())
    assert (split.labels == SPLIT.labels).all()
    assert Split(SPLIT.images, SPLIT.labels.astype(np.uint8)).labels.dtype == np.int64
    assert len(split.take(np.array([0, 2], np.uint8))) == 2
    assert [len(part) for part in split.hold_out(np.float32(0.5), 7)] == [3, 3]
    first, other = small(), small()
    assert first.train_step(SPLIT.images, SPLIT.labels.tolist(), [3, 1]) == other.train_step(
        SPLIT.images, SPLIT.labels, np.array([3, 1])
    )
    assert open_meter("processor", watts=np.float32(5)).source.startswith("5 W")


@dataclass(eq=False)
class Masked(ReLU):
    """A layer of a user's program with an array among its settings, and one of a type that only it knows."""

    mask: np.ndarray = None
    rest: "whatever" = 3  # noqa: F821


def test_a_users_layer_keeps_its_arrays():
    mask = np.ones(3)
    assert Masked(mask).mask is mask
    assert Masked(mask, "x").rest == "x"


IMAGES, LABELS = SPLIT.images, SPLIT.labels


@pytest.mark.parametrize(
    ("say", "call"),
    [
        ("Conv2D: filters must be int, not 4.0", lambda: Conv2D(4.0, 3)),
        ("Conv2D: filters must be int, not '4'", lambda: Conv2D("4", 3)),
        ("Conv2D: kernel must be", lambda: Conv2D(4, 2.5)),
        ("Conv2D: kernel must be", lambda: Conv2D(4, None)),
        ("Conv2D: kernel must be", lambda: Conv2D(4, (1, 2, 3))),
        ("Linear: units must be int, not True", lambda: Linear(True)),
        ("Linear: bias must be bool, not 'no'", lambda: Linear(3, bias="no")),
        ("Dropout: rate must be float, not '0.5'", lambda: Dropout("0.5")),
        ("SGD: momentum must be float, not None", lambda: SGD(None)),
        ("Constant: lr must be float, not '0.1'", lambda: Constant("0.1")),
        ("Recipe: epochs must be float, not '3'", lambda: Recipe(epochs="3")),
        ("Augmentation: pad_crop must be int, not 1.0", lambda: cnn.Augmentation(pad_crop=1.0)),
        ("scale is 'x'; give a positive", lambda: Preprocessing("x")),
        ("mean cannot be read as numbers", lambda: Preprocessing(1.0, ["a"])),
        ("mean cannot be read as numbers", lambda: Preprocessing(1.0, [[1], 2])),
        ("as cnn.Split(images, labels), not as a list", lambda: Preprocessing.mean_image([1])),
        ("made of a list of layers", lambda: Sequential(Linear(3), (6, 6, 1))),
        ("made of a list of layers", lambda: Sequential([Flatten, Linear(3)], (6, 6, 1))),
        ("at least one pixel, not 6", lambda: Sequential([Flatten()], 6)),
        ("at least one pixel, not (6.0", lambda: Sequential([Flatten()], (6.0, 6, 1))),
        ("classes must be a list of names, not 'abc'", lambda: small(classes="abc")),
        ("classes must be a list of names, not 3", lambda: small(classes=3)),
        ("The seed must be", lambda: small(seed="x")),
        ("The seed must be", lambda: small(seed=-1)),
        ("There is no precision 'float33'", lambda: small(precision="float33")),
        ("loss is described by a table", lambda: small(loss=3)),
        ("There is no loss 'Hinge'", lambda: small(loss="Hinge")),
        ("There is no backend 3", lambda: small(backend=3)),
        ("There is no backend ['numpy']", lambda: small(backend=["numpy"])),
        ("must be a cnn.Preprocessing, not 0.5", lambda: small(preprocessing=0.5)),
        ("takes inputs (N, 6, 6, 1), not list", lambda: small().forward([1])),
        ("takes images as a NumPy array", lambda: small().train_step([1], [1])),
        ("There are 0 images", lambda: small().train_step(IMAGES[:0], [])),
        ("labels of shape (1,)", lambda: small().train_step(IMAGES, [1])),
        ("labels for 3 classes runs from 0 to 3", lambda: small().train_step(IMAGES, [0, 1, 2, 0, 1, 3])),
        ("labels for 3 classes runs from -2 to 0", lambda: small().train_step(IMAGES, -LABELS)),
        ("labels for 3 classes has shape (6,) and type float64", lambda: small().train_step(IMAGES, LABELS / 1)),
        ("The order runs from 6 to 6", lambda: small().train_step(IMAGES, LABELS, [6])),
        ("The order runs from -1 to -1", lambda: small().load_images(IMAGES, [-1])),
        ("The order has shape (1,) and type float64", lambda: small().load_images(IMAGES, [0.5])),
        ("The order has shape ()", lambda: small().load_images(IMAGES, 1)),
        ("The batch must be", lambda: small().memory(0, training=True)),
        ("not as a tuple", lambda: small().with_own_labels((IMAGES, LABELS))),
        ("are given by name", lambda: small().load_state([1])),
        ("type float64; give (N,)", lambda: Split(IMAGES, [0.5] * 6)),
        ("type int64; give (N, H, W, C)", lambda: Split(IMAGES.tolist(), LABELS)),
        ("Indices have shape (1,) and type float64", lambda: SPLIT.take([0.5])),
        ("Indices have shape ()", lambda: SPLIT.take(2)),
        ("The fraction must be a number", lambda: SPLIT.hold_out("half", 1)),
        ("trains a cnn.Sequential, not a str", lambda: Trainer("lenet", SPLIT)),
        ("Trainer: train must be Split, not array([[", lambda: Trainer(small(), IMAGES)),
        ("Trainer: batch_size must be int, not 2.5", lambda: Trainer(small(), SPLIT, batch_size=2.5)),
        ("Trainer: schedule must be Schedule, not True", lambda: Trainer(small(), SPLIT, schedule=True)),
        ("Trainer: meter must be Meter, not 'rapl'", lambda: Trainer(small(), SPLIT, meter="rapl")),
        ("The number of epochs must be", lambda: fit(small(), SPLIT, epochs=0)),
        ("The number of epochs must be", lambda: fit(small(), SPLIT, epochs=float("nan"))),
        ("must be a list of cnn.Callback", lambda: fit(small(), SPLIT, epochs=1, callbacks=print)),
        ("must be a list of cnn.Callback", lambda: fit(small(), SPLIT, epochs=1, callbacks=[cnn.Callback])),
        ("fit has no setting lr", lambda: fit(small(), SPLIT, epochs=1, lr=0.1)),
        ("There is no architecture 3", lambda: cnn.architecture(3)),
        ("The number of classes must be", lambda: cnn.architecture("lenet", 0)),
        ("There is no data set 3", lambda: cnn.load_dataset(3)),
        ("pools are limited to must be", lambda: limit_threads(0).__enter__()),
        ("pools are limited to must be", lambda: limit_threads(1.5).__enter__()),
        ("The number of threads must be", lambda: budget("2")),
        ("There is no part 'gpus'", lambda: open_meter(["gpus"])),
        ("watts must be a number above 0", lambda: open_meter(["gpu"], watts="5")),
        ("watts must be a number above 0", lambda: open_meter([], watts=-1)),
        ("Only a cnn.Sequential can be saved", lambda: save_model("lenet", "x")),
    ],
)
def test_anything_else_is_refused_in_one_sentence(say, call):
    with pytest.raises(CnnError) as caught:
        call()
    assert say in str(caught.value)
    assert "\n" not in str(caught.value)
