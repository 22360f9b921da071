"""Jordan's networks for CIFAR-10 in seconds: chains of convolutions that start by whitening the image."""

from cnn.data.augmentation import Augmentation
from cnn.data.views import FLIP_SHIFT
from cnn.initializers import Dirac, PyTorch, Whitening
from cnn.layers import GELU, BatchNorm, Conv2D, Flatten, Layer, Linear, MaxPool2D, Multiply
from cnn.losses import SoftmaxCrossEntropy
from cnn.model.architecture import Architecture, Published, Recipe
from cnn.optimizers import SGD, Lookahead, Multiplier
from cnn.schedules import Triangular

MEAN = 1 / (1 + 1 / (1 - 0.85))
"""By which the source divides rates and decays for a momentum of 0.85."""


def airbench94(classes: int = 10) -> Architecture:
    """Eight layers with weights, 1,971,640 parameters; published 94.01 % on CIFAR-10, the mean of 1,000 runs.

    The first convolution whitens 2x2 patches and its weights are not trained; three groups of two convolutions follow,
    whose first filters start as the identity. Scales of the normalisations stay 1, and the scores are divided by 9.
    There the last, smaller batch of an epoch is left out.
    Source: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU" (arXiv 2404.00498), and airbench94.py of
    github.com/KellerJordan/cifar10-airbench. The published accuracy is of six views of each test image.
    """
    published = Published("cifar10", 0.9401, "Jordan 2024, mean of 1,000 runs", FLIP_SHIFT)
    return _airbench("airbench94", (64, 256, 256), 9.9, 11.5, published, classes)


def airbench95(classes: int = 10) -> Architecture:
    """The wider airbench94 that trains longer: 4,604,728 parameters, 15 epochs; published 95.01 %, mean of 200 runs.

    Source: airbench95.py of the same repository, and Jordan 2024, section 5.
    """
    published = Published("cifar10", 0.9501, "Jordan 2024, mean of 200 runs", FLIP_SHIFT)
    return _airbench("airbench95", (128, 384, 384), 15, 10.0, published, classes)


def _airbench(
    name: str, widths: tuple[int, int, int], epochs: float, lr: float, published: Published, classes: int
) -> Architecture:
    """`lr` is the source's learning rate per 1,024 images."""
    whitening = Conv2D(24, 2, weights=Whitening(), weight_multipliers=(0.0, 0.0))
    return Architecture(
        name,
        [
            whitening,
            GELU(),
            *(layer for filters in widths for layer in _group(filters)),
            MaxPool2D(3),
            Flatten(),
            Linear(classes, bias=False, weights=PyTorch()),
            Multiply(1 / 9),
        ],
        (32, 32, 3),
        Recipe(
            epochs=epochs,
            batch_size=1024,
            # The source's numbers per 1,024 images of a summed loss, as those of a mean.
            optimizer=SGD(0.85, 0.0153 * MEAN, nesterov=True, lr_outside=True, decoupled=True),
            schedule=Triangular(lr * MEAN, peak=0.23, start=0.2, end=0.07),
            multipliers=[Multiplier("batchnorm*.beta", lr=64.0, decay=1.0), Multiplier("conv1.bias", epochs=3)],
            slow_weights=Lookahead(5, 0.95**5, 3.0),
            loss=SoftmaxCrossEntropy(label_smoothing=0.2),
            preprocessing="standardise",
            augmentation=Augmentation(True, 2, border="reflect", alternate=True),
            validation=0.0,
            tta=FLIP_SHIFT,
        ),
        published=published,
    )


def _group(filters: int) -> list[Layer]:
    first, second = (Conv2D(filters, 3, padding=1, bias=False, weights=Dirac()) for _ in range(2))
    norms = [BatchNorm(momentum=0.6, epsilon=1e-12, scale=False) for _ in range(2)]
    return [first, MaxPool2D(2), norms[0], GELU(), second, norms[1], GELU()]
