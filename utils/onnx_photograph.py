"""What stands before, between and behind the networks in the graph that takes a photograph, in ONNX's own text.

It is `Preprocess.coarse`, dense refinement with repeated borders, and the sigmoid. PyTorch shrinks bytes with weights
of 16 bits, along rows first, and rounds in between; so does this, exactly, where ONNX's Resize differs by a level here
and there, which a trained network makes hundredths of alpha of.
"""

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from models.refiner import CELL_PX
from utils.onnx_windows import DOMAIN, expand
from utils.transforms import ASPECT_STEP, Preprocess

if TYPE_CHECKING:
    from onnx import ModelProto

# Matrix (have, want) that shrinks or enlarges by averaging under a triangle: integers of 16 bits, high byte and low
# byte, and the power of two that stands for 1. As torch's uint8 kernels for x86 make them.
WEIGHTS = """
Weights (have, want) => (high, low, unit) {
  have_double = Cast<to: int = 11>(have)
  want_double = Cast<to: int = 11>(want)
  zero = Constant<value: tensor = double {0}>()
  half = Constant<value: tensor = double {0.5}>()
  one = Constant<value: tensor = double {1}>()
  have_number = Squeeze(have_double)
  want_number = Squeeze(want_double)
  scale = Div(have_number, want_number)
  reach = Max(scale, one)
  narrow = Div(one, reach)
  from_index = Range(zero, have_number, one)
  to_index = Range(zero, want_number, one)
  from_centre = Add(from_index, half)
  to_middle = Add(to_index, half)
  to_centre = Mul(to_middle, scale)
  last = Constant<value_ints: ints = [1]>()
  column = Unsqueeze(from_centre, last)
  offset = Sub(column, to_centre)
  distance = Abs(offset)
  narrowed = Mul(distance, narrow)
  falling = Sub(one, narrowed)
  triangle = Max(falling, zero)
  first = Constant<value_ints: ints = [0]>()
  total = ReduceSum(triangle, first)
  weights = Div(triangle, total)
  greatest = ReduceMax<keepdims: int = 0>(weights)
  end_exponent = Constant<value: tensor = double {23}>()
  exponents = Range(one, end_exponent, one)
  two = Constant<value: tensor = double {2}>()
  powers = Pow(two, exponents)
  most_exact = Mul(greatest, powers)
  most = Add(most_exact, half)
  bound = Constant<value: tensor = double {32768}>()
  fits = Less(most, bound)
  fitting = Where(fits, powers, one)
  unit_double = ReduceMax<keepdims: int = 0>(fitting)
  exact = Mul(weights, unit_double)
  rounded = Add(exact, half)
  integer = Cast<to: int = 6>(rounded)
  byte = Constant<value: tensor = int32 {256}>()
  high_integer = Div(integer, byte)
  low_integer = Mod(integer, byte)
  high = Cast<to: int = 2>(high_integer)
  low = Cast<to: int = 2>(low_integer)
  unit = Cast<to: int = 6>(unit_double)
}"""

# Sums of bytes times weights, as bytes.
LEVELS = """
Levels (high, low, unit) => (levels) {
  byte = Constant<value: tensor = int32 {256}>()
  shifted = Mul(high, byte)
  sum = Add(shifted, low)
  two = Constant<value: tensor = int32 {2}>()
  half = Div(unit, two)
  more = Add(sum, half)
  quotient = Div(more, unit)
  white = Constant<value: tensor = int32 {255}>()
  level = Min(quotient, white)
  levels = Cast<to: int = 2>(level)
}"""

NORMALISE = """
Normalise (rgb) => (image) {
  levels = Cast<to: int = 1>(rgb)
  step = Constant<value: tensor = float {0.003921568859368563}>()
  colours = Mul(levels, step)
  mean = Constant<value: tensor = float[3, 1, 1] {MEAN}>()
  std = Constant<value: tensor = float[3, 1, 1] {STD}>()
  centred = Sub(colours, mean)
  image = Div(centred, std)
}"""

FIXED = """
  coarse_size = Constant<value_ints: ints = [{image_size}, {image_size}]>()"""

KEPT = """
  sides = Cast<to: int = 11>(size)
  longer = ReduceMax<keepdims: int = 0>(sides)
  image_size = Constant<value: tensor = double {{{image_size}}}>()
  step = Constant<value: tensor = double {{{step}}}>()
  products = Mul(sides, image_size)
  shrunk = Div(products, longer)
  steps = Div(shrunk, step)
  whole_steps = Round(steps)
  coarse_sides = Mul(whole_steps, step)
  coarse_sides_least = Max(coarse_sides, step)
  coarse_size = Cast<to: int = 7>(coarse_sides_least)"""

BEFORE = """
  size = Shape<start: int = 2, end: int = 4>(rgb)
  {coarse_size}
  have_rows, have_columns = Split<num_outputs: int = 2>(size)
  want_rows, want_columns = Split<num_outputs: int = 2>(coarse_size)
  column_high, column_low, column_unit = {domain}.Weights(have_columns, want_columns)
  high_of_rows, low_of_rows, row_unit = {domain}.Weights(have_rows, want_rows)
  row_high = Transpose(high_of_rows)
  row_low = Transpose(low_of_rows)
  narrow_high = MatMulInteger(rgb, column_high)
  narrow_low = MatMulInteger(rgb, column_low)
  narrow = {domain}.Levels(narrow_high, narrow_low, column_unit)
  small_high = MatMulInteger(row_high, narrow)
  small_low = MatMulInteger(row_low, narrow)
  small = {domain}.Levels(small_high, small_low, row_unit)
  coarse__image = {domain}.Normalise(small)"""

BETWEEN = """
  axes = Constant<value_ints: ints = [2, 3]>()
  enlarged = Resize<mode: string = "linear", axes: ints = [2, 3]>(coarse__coarse_logits, , , size)"""

PATCH = """
  halo = Constant<value_ints: ints = [{halo_px}, {halo_px}]>()
  cell = Constant<value_ints: ints = [{cell_px}, {cell_px}]>()
  negative = Neg(size)
  missing = Mod(negative, cell)
  behind = Add(halo, missing)
  margins = Concat<axis: int = 0>(halo, behind)
  refiner__coarse_logits = Pad<mode: string = "edge">(enlarged, margins, , axes)
  padded = Pad<mode: string = "edge">(rgb, margins, , axes)
  refiner__image = {domain}.Normalise(padded)"""

ADD = """
  origin = Constant<value_ints: ints = [0, 0]>()
  residual = Slice(refiner__residual, origin, size, axes)
  refined = Add(enlarged, residual)
  alpha = Sigmoid(refined)"""

PLAIN = """
  alpha = Sigmoid(enlarged)"""


def photograph_model(
    coarse: "ModelProto", refiner: "ModelProto | None", preprocess: Preprocess, halo_px: int
) -> "ModelProto":
    """Joins the networks' graphs with what they need to take `rgb`, uint8 (B, 3, H, W), and to give `alpha`.

    Args:
        coarse: From `image` to `coarse_logits`.
        refiner: From `image` and `coarse_logits` to `residual`, if there is one.
        preprocess: Of the coarse stage.
        halo_px: Of the refiner.

    Returns:
        A model of standard operators, float32 (B, 1, H, W) in [0, 1] its output.
    """
    from onnx import TensorProto, compose, helper, parser

    coarse_size = (KEPT if preprocess.keep_aspect else FIXED).format(image_size=preprocess.image_size, step=ASPECT_STEP)
    texts = [BEFORE.format(coarse_size=coarse_size, domain=DOMAIN), BETWEEN]
    networks = [compose.add_prefix(coarse, "coarse__")]
    if refiner is None:
        texts[-1] += PLAIN
    else:
        texts[-1] += PATCH.format(halo_px=halo_px, cell_px=CELL_PX, domain=DOMAIN)
        texts.append(ADD)
        networks.append(compose.add_prefix(refiner, "refiner__"))
    parts = [parser.parse_graph(f"part () => () {{{text}\n}}") for text in texts]
    sizes = ["batch", "height", "width"]
    graph = helper.make_graph(
        [
            node
            for pair in zip_longest(parts, (each.graph for each in networks))
            for each in pair
            if each
            for node in each.node
        ],
        "photograph",
        [helper.make_tensor_value_info("rgb", TensorProto.UINT8, [sizes[0], 3, *sizes[1:]])],
        [helper.make_tensor_value_info("alpha", TensorProto.FLOAT, [sizes[0], 1, *sizes[1:]])],
        [each for network in networks for each in network.graph.initializer],
    )
    normalise = NORMALISE.replace("MEAN", _numbers(preprocess.mean)).replace("STD", _numbers(preprocess.std))
    model = helper.make_model(graph, ir_version=coarse.ir_version)
    return expand(model, {"Weights": WEIGHTS, "Levels": LEVELS, "Normalise": normalise})


def _numbers(values: Sequence[float]) -> str:
    """As the text of a tensor of float32 wants them."""
    return ", ".join(map(repr, values))
