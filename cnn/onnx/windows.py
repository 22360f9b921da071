"""The windows of convolutions and pools, from the attributes of their nodes."""

from cnn.arrays import Shape
from cnn.convolution import Padding, Window, resolve_padding
from cnn.errors import ShapeError
from cnn.onnx.builder import Value
from cnn.onnx.files import Unfit
from cnn.onnx.nodes import Node

Border = tuple[int, int, int, int]


def pads_of(node: Node, size: Shape, kernel: tuple[int, int], stride: tuple[int, int]) -> Border:
    """(top, bottom, left, right); `kernel` is what it spans."""
    mode = node.text("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        top, bottom, left, right = resolve_padding("same", (size[0], size[1]), kernel, stride)
        return (top, bottom, left, right) if mode == "SAME_UPPER" else (bottom, top, right, left)
    pads = node.wholes("pads", [0] * 4)
    if mode not in ("NOTSET", "VALID") or len(pads) != 4:
        raise Unfit(f"its padding {mode} {pads} is none of an image")
    top, left, bottom, right = (0, 0, 0, 0) if mode == "VALID" else pads
    return top, bottom, left, right


def windows_of(node: Node, x: Value) -> tuple[tuple[int, int], tuple[int, int], Border]:
    """Kernel, stride and padding of a pool."""
    kernel, stride = two(node, "kernel_shape"), two(node, "strides")
    if two(node, "dilations") != (1, 1):
        raise Unfit("it has dilation, which no pooling layer has")
    return kernel, stride, pads_of(node, x.shape, kernel, stride)


def padding_of(border: Border) -> Padding:
    """The shortest way to write it."""
    top, bottom, left, right = border
    if not any(border):
        return "valid"
    if top == bottom and left == right:
        return top if top == left else (top, left)
    return border


def two(node: Node, name: str) -> tuple[int, int]:
    numbers = node.wholes(name, [1, 1])
    if len(numbers) != 2:
        raise Unfit(f"it has {len(numbers)} {name}, where images have 2")
    return numbers[0], numbers[1]


def one_or_two(pair: tuple[int, int]) -> int | tuple[int, int]:
    return pair[0] if pair[0] == pair[1] else pair


def step_of(kernel: tuple[int, int], stride: tuple[int, int]) -> int | tuple[int, int] | None:
    """The stride of a pool, None if it is the kernel."""
    return None if stride == kernel else one_or_two(stride)


def plus(one: Border, other: Border) -> Border:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]


def rounds_up(size: Shape, kernel: tuple[int, int], stride: tuple[int, int], inner: Border, outer: Border) -> bool:
    """Whether the windows with the padding `inner + outer` are those with `inner`, rounded up."""
    if not any(outer) or outer[0] or outer[2]:
        return False
    try:
        rounded = Window((size[0], size[1]), kernel, stride, inner, True)
    except ShapeError:
        return False
    beyond = tuple(
        max(0, (out - 1) * step + span - side)
        for out, step, span, side in zip(rounded.out, stride, kernel, rounded.padded, strict=True)
    )
    return beyond == (outer[1], outer[3])
