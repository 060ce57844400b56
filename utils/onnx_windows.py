"""Swin for PyTorch's ONNX exporter: what it cannot follow, written out in ONNX's own text.

The exporter describes every size as a formula of the input's sizes, and asks at each operator whether formulas agree.
Of windows, which pad feature maps to what they divide, that takes it minutes. Here a layer that counts windows is one
operator of known shape to it; `expand` puts in its place what it consists of, where sizes are counted when the graph
runs. The text is described in https://github.com/onnx/onnx/blob/main/docs/Syntax.md.
"""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from timm.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torch import Tensor, nn

from models import Student

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

OPSET = 18  # the first whose Split and Pad are as the texts have them
DOMAIN = "tsr_matte"  # of our own operators, of which none is left in a file
FAR = -100.0  # what is added to the scores of tokens that were no neighbours before the shift, as timm does

# As the exporter writes it, but for the order of the products, by which onnxruntime knows it and makes it one operator.
GELU = """
Gelu (x) => (y) {
  root_float = Constant<value_float: float = 1.4142135>()
  root = CastLike(root_float, x)
  share = Div(x, root)
  error = Erf(share)
  one_float = Constant<value_float: float = 1.0>()
  one = CastLike(one_float, x)
  twice = Add(error, one)
  double = Mul(x, twice)
  half_float = Constant<value_float: float = 0.5>()
  half = CastLike(half_float, x)
  y = Mul(double, half)
}"""

MERGE = """
Merge_{channels} (x) => (y) {{
  pairs = Constant<value_ints: ints = [2]>()
  channels = Constant<value_ints: ints = [{channels}]>()
  height = Shape<start: int = 1, end: int = 2>(x)
  width = Shape<start: int = 2, end: int = 3>(x)
  batch = Shape<start: int = 0, end: int = 1>(x)
  rows = Div(height, pairs)
  columns = Div(width, pairs)
  split_shape = Concat<axis: int = 0>(batch, rows, pairs, columns, pairs, channels)
  split = Reshape(x, split_shape)
  squares = Transpose<perm: ints = [0, 1, 3, 4, 2, 5]>(split)
  joined = Constant<value_ints: ints = [{joined}]>()
  shape = Concat<axis: int = 0>(batch, rows, columns, joined)
  y = Reshape(squares, shape)
}}"""

# x: (B, H, W, C), normalised; cuts: (N, N), where two tokens of a window lie on two sides of the picture's border.
# Products have the type of the weights, all else that of x.
ATTENTION = """
Attention_{channels}_{heads}_{side}_{shift} (x, qkv_weight, qkv_bias, position_bias, {cuts} out_weight, out_bias) => (y)
{{
  none = Constant<value_ints: ints = [0]>()
  zero = Constant<value_int: int = 0>()
  one = Constant<value_int: int = 1>()
  side = Constant<value_ints: ints = [{side}]>()
  less = Constant<value_ints: ints = [{side_less}]>()
  channels = Constant<value_ints: ints = [{channels}]>()
  batch = Shape<start: int = 0, end: int = 1>(x)
  height = Shape<start: int = 1, end: int = 2>(x)
  width = Shape<start: int = 2, end: int = 3>(x)
  height_more = Add(height, less)
  width_more = Add(width, less)
  rows = Div(height_more, side)
  columns = Div(width_more, side)
  padded_height = Mul(rows, side)
  padded_width = Mul(columns, side)
  more_rows = Sub(padded_height, height)
  more_columns = Sub(padded_width, width)
  {shifting}
  pads = Concat<axis: int = 0>(none, none, none, none, none, more_rows, more_columns, none)
  padded = Pad(shifted, pads)
  grid_shape = Concat<axis: int = 0>(batch, rows, side, columns, side, channels)
  grid = Reshape(padded, grid_shape)
  by_window = Transpose<perm: ints = [0, 1, 3, 2, 4, 5]>(grid)
  windows_shape = Constant<value_ints: ints = [-1, {tokens}, {channels}]>()
  windows = Reshape(by_window, windows_shape)
  tokens = CastLike(windows, qkv_weight)
  product = MatMul(tokens, qkv_weight)
  bias = CastLike(qkv_bias, qkv_weight)
  qkv = Add(product, bias)
  q_flat, k_flat, v_flat = Split<axis: int = 2, num_outputs: int = 3>(qkv)
  heads_shape = Constant<value_ints: ints = [0, 0, {heads}, {head_channels}]>()
  q_heads = Reshape(q_flat, heads_shape)
  k_heads = Reshape(k_flat, heads_shape)
  v_heads = Reshape(v_flat, heads_shape)
  q_plain = Transpose<perm: ints = [0, 2, 1, 3]>(q_heads)
  k = Transpose<perm: ints = [0, 2, 3, 1]>(k_heads)
  v = Transpose<perm: ints = [0, 2, 1, 3]>(v_heads)
  scale_float = Constant<value_float: float = {scale}>()
  scale = CastLike(scale_float, q_plain)
  q = Mul(q_plain, scale)
  products = MatMul(q, k)
  similarities = CastLike(products, x)
  scores = Add(similarities, position_bias)
  {masking}
  shares = Softmax<axis: int = -1>(masked)
  weights = CastLike(shares, v)
  mixed = MatMul(weights, v)
  mixed_heads = Transpose<perm: ints = [0, 2, 1, 3]>(mixed)
  joined = Reshape(mixed_heads, windows_shape)
  projected_products = MatMul(joined, out_weight)
  projected = CastLike(projected_products, x)
  out = Add(projected, out_bias)
  windows_grid_shape = Concat<axis: int = 0>(batch, rows, columns, side, side, channels)
  windows_grid = Reshape(out, windows_grid_shape)
  by_row = Transpose<perm: ints = [0, 1, 3, 2, 4, 5]>(windows_grid)
  map_shape = Concat<axis: int = 0>(batch, padded_height, padded_width, channels)
  map = Reshape(by_row, map_shape)
  {back}
}}"""

# As torch.roll, of tokens (B, H, W, C): each comes from its own place plus `by`, modulo height and width.
ROLL = """
  {y}_height = Squeeze(height)
  {y}_width = Squeeze(width)
  {y}_rows = Range(zero, {y}_height, one)
  {y}_columns = Range(zero, {y}_width, one)
  {y}_by = Constant<value_int: int = {by}>()
  {y}_further = Add({y}_rows, {y}_by)
  {y}_aside = Add({y}_columns, {y}_by)
  {y}_from_row = Mod({y}_further, {y}_height)
  {y}_from_column = Mod({y}_aside, {y}_width)
  {y}_down = Gather<axis: int = 1>({x}, {y}_from_row)
  {y} = Gather<axis: int = 2>({y}_down, {y}_from_column)"""

CROP = """
  first = Constant<value_ints: ints = [0, 0]>()
  size = Concat<axis: int = 0>(height, width)
  axes = Constant<value_ints: ints = [1, 2]>()
  y = Slice(map, first, size, axes)"""

# The picture's border, once shifted, runs through the last row and the last column of windows.
MASK = """
  ones = Constant<value_ints: ints = [1]>()
  whole_rows = Sub(rows, ones)
  whole_columns = Sub(columns, ones)
  zero_rows = ConstantOfShape(whole_rows)
  zero_columns = ConstantOfShape(whole_columns)
  last = Constant<value_floats: floats = [1.0]>()
  is_last_row_float = Concat<axis: int = 0>(zero_rows, last)
  is_last_column_float = Concat<axis: int = 0>(zero_columns, last)
  is_last_row_flat = CastLike(is_last_row_float, x)
  is_last_column_flat = CastLike(is_last_column_float, x)
  row_shape = Constant<value_ints: ints = [-1, 1, 1, 1]>()
  column_shape = Constant<value_ints: ints = [-1, 1, 1]>()
  is_last_row = Reshape(is_last_row_flat, row_shape)
  is_last_column = Reshape(is_last_column_flat, column_shape)
  row_mask = Mul(is_last_row, row_cut)
  column_mask = Mul(is_last_column, column_cut)
  mask_grid = Min(row_mask, column_mask)
  mask_shape = Constant<value_ints: ints = [-1, 1, {tokens}, {tokens}]>()
  mask = Reshape(mask_grid, mask_shape)
  number = Mul(rows, columns)
  each = Constant<value_ints: ints = [{heads}, {tokens}, {tokens}]>()
  by_picture_shape = Concat<axis: int = 0>(batch, number, each)
  by_picture = Reshape(scores, by_picture_shape)
  masked_by_picture = Add(by_picture, mask)
  scores_shape = Constant<value_ints: ints = [-1, {heads}, {tokens}, {tokens}]>()
  masked = Reshape(masked_by_picture, scores_shape)"""


def operator(name: str, inputs: tuple[Tensor, ...], like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An operator of a graph, which the exporter only knows to return `shape` in the type of `like`."""
    version = 1 if "::" in name else OPSET
    return torch.onnx.ops.symbolic(name, inputs, dtype=like.dtype, shape=shape, version=version)


class Linear(nn.Linear):
    """As ever, its weight transposed; products in the weight's type, their sum with the bias in the input's."""

    def forward(self, x: Tensor) -> Tensor:
        factors = (x.to(self.weight.dtype), self.weight)
        y = operator("MatMul", factors, self.weight, (*x.shape[:-1], self.out_features)).to(x.dtype)
        return y if self.bias is None else y + self.bias


class Conv2d(nn.Conv2d):
    """As ever, in the weight's type."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class Gelu(nn.GELU):
    """As ever."""

    def forward(self, x: Tensor) -> Tensor:
        return operator(f"{DOMAIN}::Gelu", (x,), x, x.shape)


class Merge(PatchMerging):
    """2x2 tokens to one; both sides are even, as the coarse stage pads its input."""

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, channels = x.shape
        shape = (b, height // 2, width // 2, 4 * channels)
        return self.reduction(self.norm(operator(f"{DOMAIN}::Merge_{channels}", (x,), x, shape)))


class Block(SwinTransformerBlock):
    """A block without stochastic depth, its window attention one operator."""

    def prepare(self) -> None:
        """Makes what the operator takes."""
        side, shift = self.window_size[0], self.shift_size[0]
        self.position_bias = nn.Buffer(self.attn._get_rel_pos_bias()[0].detach().contiguous())  # (heads, N, N)
        beyond = torch.arange(side) >= side - shift
        for name, of_token in (("row_cut", beyond.repeat_interleave(side)), ("column_cut", beyond.repeat(side))):
            setattr(self, name, nn.Buffer(FAR * (of_token[:, None] != of_token).float()))

    def forward(self, x: Tensor) -> Tensor:
        attn, (side, _), (shift, _) = self.attn, self.window_size, self.shift_size
        cuts = (self.row_cut, self.column_cut) if shift else ()
        weights = (attn.qkv.weight, attn.qkv.bias, self.position_bias, *cuts, attn.proj.weight, attn.proj.bias)
        name = f"{DOMAIN}::Attention_{x.shape[-1]}_{attn.num_heads}_{side}_{shift}"
        x = x + operator(name, (self.norm1(x), *weights), x, x.shape)
        return x + self.mlp(self.norm2(x))


def for_exporter(student: Student, dtype: torch.dtype) -> Student:
    """A copy on the CPU that the exporter can follow: it runs nowhere else, and takes multiples of STRIDE only.

    Args:
        student: The network.
        dtype: Of its large products; what passes between them, norms and softmax stay float32, as does what the
            pixels meet first. On 33 photographs a trained network's alpha then moved by 2.6e-3 at most in float16,
            and by 1.4e-2 with all of it in float16.
    """
    student = copy.deepcopy(student).cpu().to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    for module in student.modules():
        if type(module) is SwinTransformerBlock:
            module.__class__ = Block
            module.prepare()
        elif type(module) is PatchMerging:
            module.__class__ = Merge
        elif type(module) is nn.GELU:
            module.__class__ = Gelu
        elif type(module) is nn.Linear:
            module.__class__ = Linear
            module.weight = nn.Parameter(module.weight.T.to(dtype).contiguous(), requires_grad=False)
        elif type(module) is nn.Conv2d and module is not student.encoder.patch_embed.proj:
            module.__class__ = Conv2d
            module.to(dtype)
    return student


def expand(model: "ModelProto", texts: Mapping[str, str]) -> "ModelProto":
    """Puts the text of our own operators in their places, and works out what depends on no input.

    Args:
        model: A model.
        texts: Of its operators, by name.

    Returns:
        Another one, of ONNX's operators only.
    """
    from onnx import helper, parser
    from onnxscript import optimizer

    header = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>'
    model.functions.extend(parser.parse_function(header + text) for text in texts.values())
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)])
    model = optimizer.optimize(model)
    _forget_origins(model.graph)
    return model


def _forget_origins(graph: "GraphProto") -> None:
    """The exporter notes down each operator's line of code, with the paths of this machine."""
    del graph.value_info[:], graph.metadata_props[:]
    for each in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del each.metadata_props[:]
        each.doc_string = ""


def texts_of(model: "ModelProto") -> dict[str, str]:
    """The texts of the operators above that are in a model."""
    names = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    return {name: _text(name) for name in sorted(names)}


def _text(name: str) -> str:
    """The function of an operator; its name says its numbers."""
    kind, *numbers = name.split("_")
    if kind == "Gelu":
        return GELU
    if kind == "Merge":
        return MERGE.format(channels=int(numbers[0]), joined=4 * int(numbers[0]))
    channels, heads, side, shift = map(int, numbers)
    numbers = {"channels": channels, "heads": heads, "side": side, "shift": shift, "tokens": side**2}
    return ATTENTION.format(
        **numbers,
        side_less=side - 1,
        head_channels=channels // heads,
        scale=(channels // heads) ** -0.5,
        cuts="row_cut, column_cut," if shift else "",
        shifting=ROLL.format(x="x", y="shifted", by=shift) if shift else "shifted = Identity(x)",
        masking=MASK.format(**numbers) if shift else "masked = Identity(scores)",
        back=ROLL.format(x="map", y="y", by=-shift) if shift else CROP,
    )
