"""The cost model: the counts from shapes equal what a step executes, and bytes equal sums done by hand."""

import json

import numpy as np
import pytest

from cnn import registry
from cnn.arithmetic import Sizes
from cnn.cli import main
from cnn.cost import DATA, FORWARD, UPDATE, WEIGHT, count
from cnn.errors import UsageError
from cnn.layers import BatchNorm, Conv2D, Dropout, Flatten, Linear, MaxPool2D, ReLU
from cnn.model import network
from cnn.model.architecture import Architecture, Recipe
from cnn.model.sequential import Sequential
from cnn.model.zoo import SMALL, architecture
from cnn.testing import Recorder

BATCH = 3


def executed(net, training):
    rng = np.random.default_rng(0)
    recorder = Recorder(registry.create("numpy"))
    model = net.build(backend=recorder.backend)
    images = rng.integers(0, 256, (BATCH, *model.input_shape), np.uint8)
    if training:
        model.train_step(images, rng.integers(0, len(model.classes), BATCH))
    else:
        model.predict(images, batch_size=BATCH)
    return [Sizes(product.m, product.n, product.k) for product in recorder.products]


@pytest.mark.parametrize("training", [True, False], ids=["train", "infer"])
@pytest.mark.parametrize("name", SMALL)
def test_the_products_counted_are_those_executed(name, training):
    net = architecture(name)
    products = executed(net, training)
    cost = count(net, BATCH, training=training)
    assert cost.products == products
    assert cost.gemm_flops == sum(product.flops for product in products) > 0


def test_what_precedes_the_first_trained_layer_has_no_backward_pass_and_that_one_no_data_gradient():
    layers = [ReLU(), Conv2D(4, 1), BatchNorm(), Dropout(0.5), Flatten(), Linear(2)]
    net = Architecture("odd", layers, (5, 5, 3), Recipe())
    cost = count(net, BATCH, training=True)
    assert cost.products == executed(net, True)
    phases = {(stage.layer, stage.phase) for stage in cost.stages}
    assert ("relu1", DATA) not in phases
    assert ("conv1", DATA) not in phases
    assert {("conv1", WEIGHT), ("batchnorm1", DATA), ("dropout1", DATA), ("linear1", DATA)} <= phases


def test_groups_are_products_of_their_own_and_depthwise_convolutions_none():
    grouped, depthwise = Conv2D(6, 3, groups=2), Conv2D(12, 3, groups=6, activation="relu")
    net = Architecture("groups", [Conv2D(4, 3), grouped, Flatten(), Linear(2)], (9, 9, 2), Recipe())
    assert count(net, BATCH, training=True).products == executed(net, True)
    work = depthwise.work(BATCH, (5, 4, 6), training=True)
    moved, flops = 4 * (BATCH * 5 * 4 * 6 + 9 * 12 + BATCH * 3 * 2 * 12), 2 * BATCH * 3 * 2 * 12 * 9
    for operations in (work.forward, work.weight_gradient, work.data_gradient):
        assert [(each.flops, each.bytes) for each in operations if each.kind == "depthwise"] == [(flops, moved)]
    # Bias and ReLU are applied before an output is written.
    assert sum(each.bytes for each in work.forward) == moved
    assert work.macs == flops // 2
    assert (grouped.parameter_count((7, 7, 4)), depthwise.parameter_count((5, 4, 6))) == (6 * 19, 12 * 10)
    assert grouped.memory((7, 7, 4), training=False).scratch == {"columns": 5 * 5 * 9 * 2}
    assert depthwise.memory((5, 4, 6), training=False).scratch == {}


@pytest.mark.parametrize("name", SMALL)
def test_parameters_and_names_are_those_of_the_model(name):
    model = architecture(name).build(backend="numpy")
    cost = count(model, BATCH, training=True)
    update = cost.stages[-1]
    assert (update.phase, update.bytes) == (UPDATE, 20 * model.parameter_count())
    assert [stage.layer for stage in cost.stages if stage.phase == FORWARD][1:-1] == [
        layer.name for layer in model.layers
    ]


def test_bytes_of_a_padded_convolution_by_hand():
    model = Sequential([Conv2D(6, 3, padding=1, activation="relu"), Flatten(), Linear(2)], (8, 8, 2), backend="numpy")
    stages = {(stage.layer, stage.phase): stage for stage in count(model, 5, training=True).stages}
    pixels, columns, outputs = 5 * 64 * 2, 5 * 64 * 18, 5 * 64 * 6
    padded = 5 * 100 * 2
    lowering = 4 * (pixels + padded) + 4 * (padded + columns)
    kernels = 18 * 6
    assert stages["conv1", FORWARD].bytes == lowering + 4 * (columns + kernels + outputs) + 4 * 2 * outputs
    assert stages["conv1", FORWARD].flops == 2 * columns * 6 + 2 * outputs
    assert stages["conv1", WEIGHT].bytes == 4 * 3 * outputs + lowering + 4 * (columns + outputs + kernels)
    assert stages["conv1", FORWARD].intensity == pytest.approx(
        stages["conv1", FORWARD].flops / stages["conv1", FORWARD].bytes
    )


def test_bytes_in_other_precisions_by_hand(monkeypatch):
    """4x4x1 images, 2 filters of 1x1, pooled to 2x2x2, 3 classes; between layers bfloat16 has two bytes."""
    monkeypatch.setattr(network, "LEAST_STORED", 0)
    layers = [Conv2D(2, 1, activation="relu"), MaxPool2D(2), Flatten(), Linear(3)]
    architecture = Architecture("small", layers, (4, 4, 1), Recipe())
    expected = {
        "float32": {"conv1": 4 * (16 + 2 + 32) + 4 * 2 * 32, "maxpool1": 4 * (32 + 8) + 8, "linear1": 4 * (8 + 24 + 3)},
        "bfloat16": {
            "conv1": 2 * (16 + 2 + 32) + 2 * 2 * 32,
            "maxpool1": 2 * (32 + 8) + 8,
            "linear1": 2 * (8 + 24) + 12,
        },
        "float64": {"conv1": 8 * (16 + 2 + 32) + 8 * 2 * 32, "maxpool1": 8 * (32 + 8) + 8, "linear1": 8 * (8 + 24 + 3)},
    }
    for precision, layers_bytes in expected.items():
        stages = count(architecture, 1, training=True, precision=precision).stages
        found = {each.layer: each.bytes for each in stages if each.phase == FORWARD}
        # The linear layer's bias is a pass over scores, which stay in float32.
        bias = 2 * 3 * (8 if precision == "float64" else 4)
        layers_bytes["linear1"] += bias
        assert {name: found[name] for name in layers_bytes} == layers_bytes, precision
        pixels = {"float64": 8}.get(precision, 4)
        assert found["input"] == 16 * (1 + pixels)


def test_an_empty_batch_is_refused():
    with pytest.raises(UsageError, match="batch of 0"):
        count(architecture("mlp"), 0, training=True)


def test_the_command_prints_what_is_counted(capsys):
    assert main(["cost", "cifar10_quick", "--batch-size", "8", "--mode", "infer", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    cost = count(architecture("cifar10_quick"), 8, training=False)
    assert table["gemm_flops"] == cost.gemm_flops
    assert sum(stage["bytes"] for stage in table["stages"]) == table["bytes"] == cost.bytes
    assert main(["cost"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["conv2", "data", "gradient", "gemm", "+", "col2im", "204.80", "206.85", "18.040", "11.5"] in lines
