"""The fully connected layer."""

from dataclasses import dataclass, field

from cnn.arithmetic import Work, product
from cnn.arrays import Array, Shape
from cnn.config import require
from cnn.errors import ShapeError
from cnn.initializers import Glorot, Initializer
from cnn.layers.layer import Stores
from cnn.layers.weighted import Weighted


@dataclass(eq=False)
class Linear(Weighted):
    """activation(x (N, D) @ weight (D, K) + bias (K,)), K being `units`."""

    units: int
    bias: bool = True
    activation: str | None = None
    weights: Initializer = field(default_factory=Glorot)
    weight_multipliers: tuple[float, float] = (1.0, 1.0)
    bias_multipliers: tuple[float, float] = (1.0, 1.0)

    stores = Stores(inputs=True, apart=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.units >= 1, f"Linear needs at least 1 unit, not {self.units}.")

    def shape_after(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 1:
            raise ShapeError(f"Linear takes vectors (D,), not {input_shape}; put Flatten before it.")
        return (self.units,)

    def parameter_count(self, input_shape: Shape) -> int:
        return self.units * (input_shape[0] + self.bias)

    def work(self, batch: int, input_shape: Shape, *, training: bool) -> Work:
        depth = input_shape[0]
        return self._finished(
            batch * self.units,
            [product(batch, self.units, depth)],
            [product(depth, self.units, batch)],
            [product(batch, depth, self.units)],
        )

    def create(self) -> None:
        self._create_weights((self.input_shape[0], self.units))

    def _product(self, x: Array, w: Array, bias: Array | None, activation: str | None, out: Array) -> None:
        self.backend.product(x, w, out=out, scratch=self.context.scratch)
        self.backend.bias_activation(out, bias, activation)

    def _weight_gradient(self, x: Array, dz: Array, out: Array) -> None:
        self.backend.product(x, dz, transpose_a=True, out=out, scratch=self.context.scratch)

    def _data_gradient(self, dz: Array, out: Array) -> None:
        self.backend.product(dz, self.w.value, transpose_b=True, out=out, scratch=self.context.scratch)
