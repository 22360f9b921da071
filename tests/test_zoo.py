"""The published networks: counts worked by hand, recipes as published, and networks read from TOML."""

import numpy as np
import pytest

from cnn.data.augmentation import Augmentation
from cnn.errors import FileFormatError, UsageError
from cnn.initializers import Gaussian, Xavier, Zeros
from cnn.layers import BatchNorm, Conv2D, Flatten, Linear, LocalResponseNorm, Residual
from cnn.losses import MeanSquaredError, SoftmaxCrossEntropy
from cnn.model.resnets import resnet18, resnet20, resnet50
from cnn.model.sequential import Sequential
from cnn.model.zoo import LECUN_CONNECTIONS, SMALL, ZOO, architecture
from cnn.optimizers import SGD, Adam
from cnn.schedules import Constant, Inv, MultiStep

CONV1, IP = (75 + 1) * 32, 64 * 4 * 4
PARAMETERS = {
    # BVLC Caffe, examples/mnist: 431,080.
    "lenet": (25 + 1) * 20 + (25 * 20 + 1) * 50 + (4 * 4 * 50 + 1) * 500 + (500 + 1) * 10,
    # All 96 kernels of the second convolution are stored, though 36 of them stay zero.
    "lenet5": (25 + 1) * 6 + (25 * 6 + 1) * 16 + (25 * 16 + 1) * 120 + (120 + 1) * 10,
    # BVLC Caffe, examples/cifar10: 145,578.
    "cifar10_quick": CONV1 + (25 * 32 + 1) * 32 + (25 * 32 + 1) * 64 + (IP + 1) * 64 + (64 + 1) * 10,
    # 2,432 + 25,632 + 51,264 + 10,250 = 89,578.
    "cifar10_full": CONV1 + (25 * 32 + 1) * 32 + (25 * 32 + 1) * 64 + (IP + 1) * 10,
    "vgg6": (27 + 1) * 64
    + (9 * 64 + 1) * 64
    + (9 * 64 + 1) * 128
    + (9 * 128 + 1) * 128
    + (9 * 128 + 1) * 256
    + (9 * 256 + 1) * 256
    + (4 * 4 * 256 + 1) * 256
    + (256 + 1) * 10,
    "mlp": (784 + 1) * 128 + (128 + 1) * 64 + (64 + 1) * 10,
    # The 78,666 of MLPerf Tiny's model count its running statistics, a mean and a variance of 240 channels.
    "resnet8": 78_666 - 2 * 240,
    # He et al. 2015 say 0.27 million, with option A; its two projections and their scales and shifts are 2,752.
    "resnet20": 269_722 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64,
    # The seven convolutions of airbench94.py, a bias of the first only, the shifts of six norms, the linear layer.
    "airbench94": (12 + 1) * 24 + 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256) + 2 * (64 + 256 + 256) + 256 * 10,
    "airbench95": (12 + 1) * 24 + 9 * (24 * 128 + 128 * 128 + 128 * 384 + 3 * 384 * 384) + 2 * 896 + 384 * 10,
    # Scales and shifts of 32 and 64 channels; images of 7x7 go to the linear layers.
    "fashion": 9 * (32 + 32 * 32 + 32 * 64 + 64 * 64) + 4 * (32 + 64) + (7 * 7 * 64 + 1) * 128 + (128 + 1) * 10,
    # As torchvision and the papers' authors publish them.
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "vgg16": 138_357_544,
    # The paper's networks of two groups, as counted for Caffe's bvlc_reference and by Keras for MobileNet.
    "alexnet": 60_965_224,
    "mobilenet": 4_231_976,
    "squeezenet": 1_235_496,
    # BVLC Caffe's bvlc_googlenet without its two auxiliary classifiers.
    "googlenet": 6_998_552,
}
MACS = {
    # 288,000 + 1,600,000 + 400,000 + 5,000
    "lenet": [24 * 24 * 20 * 25, 8 * 8 * 50 * 25 * 20, 800 * 500, 500 * 10],
    # As executed, with a dense second convolution; 60 of its 96 kernels count in the published 316,800.
    "lenet5": [28 * 28 * 6 * 25, 10 * 10 * 16 * 25 * 6, 25 * 16 * 120, 120 * 10],
    "cifar10_quick": [32 * 32 * 32 * 75, 16 * 16 * 32 * 800, 8 * 8 * 64 * 800, 1024 * 64, 64 * 10],
    "cifar10_full": [32 * 32 * 32 * 75, 16 * 16 * 32 * 800, 8 * 8 * 64 * 800, 1024 * 10],
}


@pytest.mark.parametrize("name", ZOO)
def test_a_network_has_the_parameters_counted_by_hand(name):
    described = architecture(name)
    assert sum(node.parameter_count for node in described.network.nodes) == PARAMETERS[name]
    assert described.name == name


# Szegedy et al. 2014, table 1: the output size, the parameters and the operations of each row, in the paper's units.
INCEPTIONS = {
    "concat1": ((28, 28, 256), 159e3, 128e6),
    "concat2": ((28, 28, 480), 380e3, 304e6),
    "concat3": ((14, 14, 512), 364e3, 73e6),
    "concat4": ((14, 14, 512), 437e3, 88e6),
    "concat5": ((14, 14, 512), 463e3, 100e6),
    "concat6": ((14, 14, 528), 580e3, 119e6),
    "concat7": ((14, 14, 832), 840e3, 170e6),
    "concat8": ((7, 7, 832), 1072e3, 54e6),
    "concat9": ((7, 7, 1024), 1388e3, 71e6),
}


def test_googlenet_is_its_papers_table():
    """The paper's sums differ from its own sizes by up to 10 % of the parameters and 6 % of the operations."""
    found, parameters, macs = {}, 0, 0
    for node in architecture("googlenet").network.nodes:
        parameters, macs = parameters + node.parameter_count, macs + node.macs
        if node.name in INCEPTIONS:
            found[node.name] = (node.output_shape, parameters, macs)
        if node.name in INCEPTIONS or node.name == "maxpool2":  # where the modules begin
            parameters, macs = 0, 0
    assert found.keys() == INCEPTIONS.keys()
    for name, (shape, parameters, macs) in INCEPTIONS.items():
        assert found[name] == (shape, pytest.approx(parameters, rel=0.105), pytest.approx(macs, rel=0.06))


def test_alexnet_takes_724_million_products():
    """666 M of them in convolutions (Sze et al. 2017, "Efficient processing of deep neural networks", table II)."""
    nodes = architecture("alexnet").network.nodes
    convolutions = sum(node.macs for node in nodes if isinstance(node.layer, Conv2D))
    assert round(convolutions / 1e6) == 666
    assert round(sum(node.macs for node in nodes) / 1e6) == 724


RESIDUAL_SHAPES = {
    "resnet18": [(56, 56, 64)] * 2 + [(28, 28, 128)] * 2 + [(14, 14, 256)] * 2 + [(7, 7, 512)] * 2,
    "resnet50": [(56, 56, 256)] * 3 + [(28, 28, 512)] * 4 + [(14, 14, 1024)] * 6 + [(7, 7, 2048)] * 3,
    "resnet20": [(32, 32, 16)] * 3 + [(16, 16, 32)] * 3 + [(8, 8, 64)] * 3,
}


@pytest.mark.parametrize("name", RESIDUAL_SHAPES)
def test_residual_blocks_have_the_sizes_of_the_paper(name):
    nodes = architecture(name).network.nodes
    assert [node.output_shape for node in nodes if node.name.startswith("add")] == RESIDUAL_SHAPES[name]


@pytest.mark.parametrize("build", [resnet18, resnet20, resnet50])
def test_a_residual_block_can_start_as_its_shortcut(build):
    zeros = [
        [isinstance(node.layer.scales, Zeros) for node in network.nodes if isinstance(node.layer, BatchNorm)]
        for network in (build().network, build(zero_last=True).network)
    ]
    assert not any(zeros[0])
    nodes = build(zero_last=True).network.nodes
    assert sum(zeros[1]) == sum(node.name.startswith("add") for node in nodes)
    # The zeros are where a block's main path ends: what is added first.
    added = [nodes[node.inputs[0]].layer for node in nodes if node.name.startswith("add")]
    assert all(isinstance(layer, BatchNorm) and layer.scales == Zeros() for layer in added)


def test_a_block_whose_last_scale_is_zero_hands_on_its_input():
    x = np.random.default_rng(0).random((2, 5, 4, 3), np.float32)
    main = [Conv2D(3, 3, padding=1), BatchNorm(scales=Zeros())]
    model = Sequential([Residual(main), Flatten(), Linear(2)], (5, 4, 3), backend="numpy")
    block = model.network
    model.forward(x, training=True)
    np.testing.assert_array_equal(block.arrays.outputs[2], x)


def test_the_counts_by_hand_are_those_published():
    assert PARAMETERS["lenet"] == 431_080
    assert PARAMETERS["cifar10_quick"] == 145_578
    assert PARAMETERS["cifar10_full"] == 89_578


@pytest.mark.parametrize("name", MACS)
def test_a_network_takes_the_products_counted_by_hand(name):
    net = architecture(name).build(backend="numpy")
    assert [node.macs for node in net.network.nodes if node.macs] == MACS[name]


def test_lenet5_takes_the_published_products_when_its_missing_connections_do_not_count():
    assert sum(MACS["lenet5"]) == 406_800
    assert sum(MACS["lenet5"]) - (96 - 60) * 25 * 10 * 10 == 316_800


def test_lecuns_connections_are_table_1_of_the_paper():
    # LeCun et al. 1998, table I: a row for each map of S2, a column for each of the 16 maps of C3.
    table = [
        "X...XXX..XXXX.XX",
        "XX...XXX..XXXX.X",
        "XXX...XXX..X.XXX",
        ".XXX..XXXX..X.XX",
        "..XXX..XXXX.XX.X",
        "...XXX..XXXX.XXX",
    ]
    assert [len(row) for row in table] == [16] * 6
    assert sum(row.count("X") for row in table) == 60
    expected = [{s2 for s2 in range(6) if table[s2][c3] == "X"} for c3 in range(16)]
    assert [set(seen) for seen in LECUN_CONNECTIONS] == expected
    assert sum(map(len, LECUN_CONNECTIONS)) == 60


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "optimizer", "schedule", "preprocessing", "scale"),
    [
        ("lenet", 11, 64, SGD(0.9, 5e-4), Inv(0.01, 1e-4, 0.75), "scale", 1 / 256),
        ("cifar10_quick", 10, 100, SGD(0.9, 0.004), MultiStep(1e-3, (4000,), 0.1), "mean_image", 1.0),
        ("cifar10_full", 140, 100, SGD(0.9, 0.004), MultiStep(1e-3, (60_000, 65_000), 0.1), "mean_image", 1.0),
    ],
)
def test_a_recipe_is_caffes(name, epochs, batch, optimizer, schedule, preprocessing, scale):
    """The solvers run 10,000 batches of MNIST (10.7 epochs), 5,000 and 70,000 of CIFAR-10 (500 per epoch)."""
    recipe = architecture(name).recipe
    assert (recipe.epochs, recipe.batch_size) == (epochs, batch)
    assert recipe.optimizer.config() == optimizer.config()
    assert recipe.schedule == schedule
    assert (recipe.preprocessing, recipe.pixel_scale) == (preprocessing, scale)
    assert recipe.loss == SoftmaxCrossEntropy()
    assert recipe.augmentation == Augmentation()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lenet", [(Xavier(), (1, 1), (2, 1))] * 4),
        (
            "cifar10_quick",
            [(Gaussian(std), (1, 1), (2, 1)) for std in (1e-4, 0.01, 0.01, 0.1, 0.1)],
        ),
        (
            "cifar10_full",
            [
                (Gaussian(1e-4), (1, 1), (2, 1)),
                (Gaussian(0.01), (1, 1), (2, 1)),
                # The third convolution states no multipliers: 1 for its bias too.
                (Gaussian(0.01), (1, 1), (1, 1)),
                (Gaussian(0.01), (1, 250), (2, 0)),
            ],
        ),
    ],
)
def test_first_weights_and_multipliers_are_caffes(name, expected):
    layers = [layer for layer in architecture(name).layers if isinstance(layer, Conv2D | Linear)]
    assert [(each.weights, each.weight_multipliers, each.bias_multipliers) for each in layers] == expected


def test_the_layers_of_the_caffe_networks_stand_in_caffes_order():
    names = {
        name: [type(layer).__name__ for layer in architecture(name).layers]
        for name in ("cifar10_quick", "cifar10_full")
    }
    assert names["cifar10_full"] == [
        *("Conv2D", "MaxPool2D", "ReLU", "LocalResponseNorm"),
        *("Conv2D", "AvgPool2D", "LocalResponseNorm"),
        *("Conv2D", "AvgPool2D", "Flatten", "Linear"),
    ]
    assert [name for name in names["cifar10_full"] if name != "LocalResponseNorm"] == names["cifar10_quick"][:-1]
    norms = [layer for layer in architecture("cifar10_full").layers if isinstance(layer, LocalResponseNorm)]
    assert [norm.config() for norm in norms] == [LocalResponseNorm(3, 5e-5, 0.75, 1.0, "within").config()] * 2
    shapes = [layer.output_shape for layer in architecture("cifar10_full").build(backend="numpy").layers]
    assert [shape[:2] for shape in shapes[:-2]] == [(32, 32), *[(16, 16)] * 4, *[(8, 8)] * 3, (4, 4)]


@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_built_for_other_classes_and_gives_finite_shares(name):
    net = architecture(name, classes=3).build(backend="numpy")
    images = np.random.default_rng(0).integers(0, 256, (2, *net.input_shape), dtype=np.uint8)
    assert net.predict(images).sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert len(net.classes) == 3


TOML = """
name = "small"
input = [8, 8, 1]

[[layers]]
type = "Conv2D"
filters = 4
kernel = [3, 3]
activation = "relu"
weights = {type = "Gaussian", std = 0.1}

[[layers]]
type = "Flatten"

[[layers]]
type = "Linear"
units = 2
weights = "He"

[recipe]
epochs = 3
optimizer = {type = "Adam", beta1 = 0.8}
schedule = {type = "Constant", lr = 1e-3}
loss = "MeanSquaredError"
augmentation = {flip = true}
"""


def test_a_network_is_read_from_toml(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(TOML)
    own = architecture(str(path))
    assert (own.name, own.input_shape, own.recipe.epochs) == ("small", (8, 8, 1), 3)
    assert own.recipe.optimizer.config() == Adam(0.8).config()
    assert (own.recipe.schedule, own.recipe.loss) == (Constant(1e-3), MeanSquaredError())
    assert own.recipe.augmentation == Augmentation(flip=True)
    assert (own.recipe.batch_size, own.recipe.preprocessing) == (64, "scale")
    assert sum(each.value.size for each in own.build(backend="numpy").parameters) == 40 + (6 * 6 * 4 + 1) * 2
    path.write_text('input = [2, 2, 1]\n[[layers]]\ntype = "Flatten"')
    assert architecture(str(path)).name == "own"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[8, 8, 1]", "[8, 8", "cannot be read as TOML"),
        ('name = "small"', 'names = "small"', "has no entry 'names'; did you mean 'name'?"),
        ("[8, 8, 1]", "[8, 8]", "three whole numbers above 0 [height, width, channels], not [8, 8]"),
        ("[8, 8, 1]", "8", "three whole numbers above 0 [height, width, channels], not 8"),
        ("[8, 8, 1]", "[8, 8, 1.5]", "not [8, 8, 1.5]"),
        ("[8, 8, 1]", "[8, 8, true]", "not [8, 8, True]"),
        ("[8, 8, 1]", "[8, 8, 0]", "not [8, 8, 0]"),
        ("[[layers]]", "[[layer]]", "has no entry 'layer'; did you mean 'layers'?"),
        ('"Conv2D"', '"Conv3D"', "no layer 'Conv3D'; did you mean 'Conv2D'? Known are: Add, AvgPool2D, "),
        ('"Conv2D"', '"Weighted"', "no layer 'Weighted'; known are: Add, AvgPool2D, "),
        ('type = "Flatten"', "", "A layer is described by a table with a `type`, not by {}"),
        ("filters = 4", "", "Conv2D needs a value for filters"),
        ("filters = 4", "filters = 4.5", "Conv2D: filters must be int, not 4.5"),
        ("filters = 4", "filters = 0", "at least 1 filter, not 0"),
        ("filters = 4", "filters = 4\nfilter = 4", "Conv2D has no setting 'filter'"),
        ("kernel = [3, 3]", "kernel = [3, 3, 3]", "not [3, 3, 3]"),
        ("kernel = [3, 3]", "kernel = 3\npadding = 1.5", "padding must be"),
        ("kernel = [3, 3]", "kernel = 3\nconnections = [1, 2]", "connections must be"),
        ('"relu"', '"gelu"', "no fused activation 'gelu'"),
        ('"Gaussian"', '"Normal"', "no initializer 'Normal'"),
        ("std = 0.1", "std = 0", "std must be above 0, not 0"),
        ("epochs = 3", "epoch = 3", "recipe has no setting 'epoch'"),
        ("epochs = 3", 'epochs = "3"', "recipe: epochs must be float, not '3'"),
        ("epochs = 3", "epochs = 0", "epochs (0)"),
        ("epochs = 3", "batch_size = -1", "batch_size (-1)"),
        ("epochs = 3", "pixel_scale = nan", "recipe.pixel_scale is nan; give a finite number"),
        ("epochs = 3", 'preprocessing = "none"', "scale, mean_image, standardise, not 'none'"),
        ('"Adam"', '"Adagrad"', "no optimizer 'Adagrad'"),
        ("beta1 = 0.8", "beta1 = 1.8", "beta1 must be at least 0 and below 1, not 1.8"),
        ("lr = 1e-3", "lr = -1e-3", "learning rate must be above 0"),
        ("{flip = true}", "{flip = 1}", "flip must be bool, not 1"),
        ("{flip = true}", "{mirror = true}", "'mirror'"),
        (TOML[TOML.index("[recipe]") :], "[[recipe]]\nepochs = 3", "recipe must be a table"),
        (TOML[TOML.index("[[layers]]") :], "", "at least one [[layers]] table"),
        (TOML[TOML.index("[[layers]]") :], 'layers = {type = "Flatten"}', "at least one [[layers]] table"),
        (TOML[TOML.index("[[layers]]") :], "layers = [1, 2]", "not by 1"),
    ],
)
def test_a_broken_toml_gives_one_sentence_with_the_file_and_the_cause(old, new, message, tmp_path):
    path = tmp_path / "own.toml"
    assert old in TOML
    path.write_text(TOML.replace(old, new))
    with pytest.raises((UsageError, FileFormatError)) as caught:
        architecture(str(path))
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_no_text_and_a_name_that_is_unknown_are_errors(tmp_path):
    with pytest.raises(FileFormatError, match=r"There is no TOML file .*none\.toml; check"):
        architecture(str(tmp_path / "none.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileFormatError, match=r"bytes\.toml cannot be read"):
        architecture(str(tmp_path / "bytes.toml"))
    with pytest.raises(UsageError, match=r"no architecture 'nonet'; known are: lenet, lenet5, .* or a file ending in"):
        architecture("nonet")
