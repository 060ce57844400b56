"""The figure of the architecture: three stages and what trains them, drawn from an `Anatomy`.

Places are pixels of the sheet. Decoder and teacher stand above each other, a column a stride.
"""

import textwrap
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_hex

from utils import refiner_plot
from utils.anatomy import Anatomy, Cost, Stage
from utils.diagram import BODY, LABEL, SMALL, TITLE, Sheet, drawn, tint
from utils.example import Example
from utils.plots import COARSE, INK, OUTLINE, REFERENCE, REFINED

TEACHER = "#707070"
LEFT, MIDDLE, RIGHT = 20, 1500, 2780  # edges of the sheet's panels
LANE, UPPER, LOWER = 260, 535, 400  # heights of training, coarse stage and routing
GAP = 20  # between panels
TALLEST, SHRINKAGE = 200, 0.42  # height of a map at stride 2; the power of a map's side that its height follows
FIRST, PITCH, WIDTH = 345, 113, 88  # x of the first stage, from one to the next, width of each
AXIS, THUMB = 222, 170  # of the coarse stage: y that its maps are centred on; side of its results
RESULTS = 1380  # x of them
INPUT = (LEFT + 125, 190)  # x and width of what the coarse stage sees
COARSE_RESULT, GAIN = AXIS - 78, AXIS + 172  # y of the results
LINE, LIGHT = tint(COARSE, 0.9), tint(COARSE, 0.36)
SQUARE = to_hex(np.array(OUTLINE) / 255)
TEACHERS = {  # by kind
    "cnn": "A mask teacher, a CNN, sees the\ntrue alpha. It is trained first, as an\nauto-encoder, then frozen.",
    "swin": "A mask teacher, a frozen Swin with\nImageNet weights, sees the true alpha.",
}


class Captions(NamedTuple):
    """What the figure says that is no part of the network.

    Attributes:
        preset: That the network was built from.
        backbone: Name of the encoder.
        loss: Names of the terms of a matte's loss.
        teacher: Its kind, "cnn" or "swin", where there is one.
        crops: Squares of a picture that the refiner is trained on.
        sides_px: Of the smallest and the largest squares that are refined.
    """

    preset: str
    backbone: str
    loss: tuple[str, ...]
    teacher: str
    crops: int
    sides_px: tuple[int, int]


def draw_architecture(anatomy: Anatomy, example: Example, captions: Captions) -> Sheet:
    """The figure of a network.

    Args:
        anatomy: What is drawn.
        example: A picture on its way through it.
        captions: What is said.
    """
    top = LEFT + (LANE + GAP if anatomy.teacher else 0)
    lower = top + UPPER + GAP
    sheet = Sheet((RIGHT if anatomy.refiner else MIDDLE) + LEFT, lower + LOWER + 45)
    draw_coarse_stage(sheet, anatomy, example, top, captions)
    if anatomy.refiner:
        draw_routing(sheet, anatomy, example, lower, captions)
        refiner_plot.draw_refiner(sheet, anatomy.refiner, example, (MIDDLE + GAP, top, RIGHT, lower + LOWER))
    else:
        draw_enlarging(sheet, anatomy, example, lower)
    if anatomy.teacher:
        draw_training(sheet, anatomy, example, captions)
    note = f"Preset {captions.preset}, read off its network. The picture is one of the embedded data; the coarse alpha "
    note += "and its gain are imitated, the final alpha is the true one." if anatomy.refiner else "is imitated."
    sheet.text((LEFT + 5, lower + LOWER + 23), note, SMALL - 2, colour=TEACHER)
    return sheet


# ---------------------------------------------------------------------------------------------------- coarse stage


def draw_coarse_stage(sheet: Sheet, anatomy: Anatomy, example: Example, top: float, captions: Captions) -> None:
    """Image, encoder, decoder, stem and heads."""
    sheet.panel(LEFT, top, MIDDLE, top + UPPER, COARSE)
    size = f"the whole photograph, at {by(anatomy.size)} px"
    sheet.heading((LEFT + 30, top + 40), "1", "Coarse stage", size, COARSE)
    axis, right, half = top + AXIS, INPUT[0] + INPUT[1] / 2, drawn(INPUT[1], anatomy.size) / 2
    sheet.picture(example.coarse_rgb, (INPUT[0], axis), INPUT[1])

    columns = place_columns(anatomy)
    encoder = [(FIRST + PITCH * index, stage) for index, stage in enumerate(anatomy.encoder)]
    decoder = [(columns[stage.stride], stage) for stage in anatomy.decoder]
    head = (FIRST + PITCH * (len(encoder) + len(decoder)), anatomy.head)
    for x, stage in encoder:
        draw_stage(sheet, anatomy, (x, axis), stage, COARSE, "white")
        sheet.text((x, axis - tall(anatomy, stage) / 2 - 17), by(stage.size, "×"), SMALL - 3, ha="center")
    for x, stage in (*decoder, head):
        draw_stage(sheet, anatomy, (x, axis), stage, LIGHT, INK)
    row = [*encoder, *decoder, head]
    sheet.line([(right, axis), (row[0][0] - WIDTH / 2, axis)], LINE)
    for (x, _), (after, _) in pairwise(row):
        sheet.line([(x + WIDTH / 2, axis), (after - WIDTH / 2, axis)], LINE)
    for x, stage in encoder:
        for other, step in decoder:
            if stage.stride == step.stride:  # a lateral, which passes below the lower boxes
                y = axis + tall(anatomy, stage) / 2 - 7
                sheet.line([(x + WIDTH / 2, y), (other - WIDTH / 2, y)], LINE, width_px=3)

    below = axis + 198
    if anatomy.stem:
        draw_stage(sheet, anatomy, (FIRST, below), anatomy.stem, LIGHT, INK)
        y = axis + 0.7 * half
        sheet.line([(right, y), (272, y), (272, below), (FIRST - WIDTH / 2, below)], LINE)
        bottom = axis + tall(anatomy, head[1]) / 2
        sheet.line([(FIRST + WIDTH / 2, below), (head[0], below), (head[0], bottom)], LINE)
        sheet.text((FIRST + 70, below + 32), "stem: finer edges than the encoder sees", BODY)
    key = "In each box: stride and channels of the map, whose side sets the height."
    sheet.text((FIRST + 70, below + 80), key, SMALL - 2, colour=TEACHER)
    names = {f"Swin {captions.backbone}": anatomy.encoder_cost, "U-Net decoder": anatomy.decoder_cost}
    for x, (name, cost) in zip((FIRST + 70, decoder[0][0] - WIDTH / 2), names.items(), strict=True):
        sheet.text((x, below - 92), name, LABEL, bold=True, colour=COARSE)
        sheet.text((x, below - 43), describe_cost(cost), SMALL - 1)

    outputs = [(top + COARSE_RESULT, example.coarse_alpha, "coarse alpha")]
    if anatomy.refiner:
        outputs.append((top + GAIN, example.gain, "expected gain"))
    for (y, pixels, name), conv in zip(outputs, anatomy.outputs, strict=False):
        sheet.picture(pixels, (RESULTS, y), THUMB, edge=COARSE)
        sheet.text((RESULTS, y - THUMB / 2 - 22), name, BODY, ha="center", colour=COARSE, bold=True)
        sheet.line([(head[0] + WIDTH / 2, axis), (1204, axis), (1204, y), (1223, y)], LINE, arrow=False)
        sheet.box((1248, y), (50, 38), COARSE, radius=6)
        sheet.text((1248, y), f"{conv.kernel}×{conv.kernel}", SMALL - 3, ha="center", colour="white")
        sheet.line([(1273, y), (RESULTS - THUMB / 2, y)], LINE)


def place_columns(anatomy: Anatomy) -> dict[int, float]:
    """x of the decoder's and of the teacher's strides."""
    coarser = [stage.stride for stage in anatomy.decoder]
    finer = [stage.stride for stage in anatomy.teacher.stages[::-1]] if anatomy.teacher else []
    strides = dict.fromkeys([*coarser, *sorted({*finer} - {*coarser}, reverse=True)])
    return {stride: FIRST + PITCH * (len(anatomy.encoder) + index) for index, stride in enumerate(strides)}


def draw_stage(
    sheet: Sheet, anatomy: Anatomy, centre: tuple[float, float], stage: Stage, fill: str, ink: str, edge: str = "none"
) -> None:
    """A box as high as its map is large, with stride and channels."""
    size, dashed = (WIDTH, tall(anatomy, stage)), edge != "none"
    sheet.module(centre, size, fill, f"1/{stage.stride}", stage.channels, ink=ink, edge=edge, dashed=dashed)


def tall(anatomy: Anatomy, stage: Stage) -> float:
    """Height of a stage's box."""
    return TALLEST * (2 * max(stage.size) / max(anatomy.size)) ** SHRINKAGE


# ---------------------------------------------------------------------------------------------------- routing


def draw_routing(sheet: Sheet, anatomy: Anatomy, example: Example, top: float, captions: Captions) -> None:
    """The photograph, and the squares of it that are refined."""
    sheet.panel(LEFT, top, MIDDLE, top + LOWER, REFINED)
    photograph(sheet, anatomy, example, top)
    high, wide = example.size
    small, large = captions.sides_px
    text = f"squares of {small} to {large} px, where\nrefinement is expected to gain\nenough for its work"
    sheet.heading((520, top + 50), "2", "Routing", text, REFINED)
    width, centre = 450, (1240, top + LOWER / 2)
    scale = width / wide
    left, upper = centre[0] - width / 2, centre[1] - high * scale / 2
    pale = np.rint(0.35 * example.rgb + 0.65 * 255).astype(np.uint8)
    sheet.picture(pale, centre, width, edge=REFINED)
    found = [(x, y, side) for side, _, corner in example.squares for y, x in corner.tolist()]
    squares = np.array(found, float).reshape(-1, 3)
    sheet.squares(scale * squares[:, :2] + (left, upper), scale * squares[:, 2], SQUARE, opacity=0.3)
    share = (squares[:, 2] ** 2).sum() / (high * wide)
    sheet.line([(LEFT + 460, top + 270), (left, top + 270)], REFINED)
    text = f"native resolution\nhere {by(example.size)} px, {100 * share:.0f} % refined"
    sheet.text((520, top + 296), text, SMALL, va="top")
    above = top - GAP - UPPER
    sheet.line([(RESULTS, above + GAIN + drawn(THUMB, anatomy.size) / 2), (RESULTS, upper)], COARSE)
    sheet.line([(left + width, centre[1]), (MIDDLE + GAP + 55, centre[1])], REFINED)
    y = above + COARSE_RESULT
    sheet.line([(RESULTS + THUMB / 2, y), (MIDDLE + GAP + 55, y)], COARSE)


def draw_enlarging(sheet: Sheet, anatomy: Anatomy, example: Example, top: float) -> None:
    """Without a refiner: the coarse alpha at the photograph's size."""
    sheet.panel(LEFT, top, MIDDLE, top + LOWER, REFERENCE)
    photograph(sheet, anatomy, example, top)
    centre = (1250, top + 24 + drawn(215, example.size))
    sheet.picture(example.coarse_alpha, centre, 430, edge=COARSE, shape=example.size)
    sheet.text((1250, top + 374), "alpha, native resolution", LABEL, bold=True, ha="center", colour=COARSE)
    bottom = top - GAP - UPPER + COARSE_RESULT + drawn(THUMB, anatomy.size) / 2
    sheet.line([(RESULTS, bottom), (RESULTS, top + 24)], COARSE)
    text = "the coarse alpha, at the\nphotograph's own size;\nthere is no refiner"
    sheet.heading((520, top + 130), "2", "Enlarging", text, COARSE)


def photograph(sheet: Sheet, anatomy: Anatomy, example: Example, top: float) -> None:
    """The photograph, whose way leads up to the coarse stage."""
    centre = (LEFT + 245, top + 24 + drawn(215, example.size))
    sheet.picture(example.rgb, centre, 430)
    sheet.text((centre[0], top + 374), "photograph, any size", LABEL, bold=True, ha="center")
    bottom = top - GAP - UPPER + AXIS + drawn(INPUT[1], anatomy.size) / 2
    sheet.line([(INPUT[0], top + 24), (INPUT[0], bottom + 2)], INK)
    sheet.text((INPUT[0] + 18, top - 105), "resize", BODY)


# ---------------------------------------------------------------------------------------------------- training


def draw_training(sheet: Sheet, anatomy: Anatomy, example: Example, captions: Captions) -> None:
    """The mask teacher above the decoder it teaches, and what the mattes are compared with."""
    right = RIGHT if anatomy.refiner else MIDDLE
    sheet.panel(LEFT, LEFT, right, LEFT + LANE, TEACHER, dashed=True)
    middle, top = LEFT + LANE / 2, LEFT + LANE + GAP
    sheet.text((LEFT + 30, LEFT + 42), "Training only", TITLE, bold=True, colour=TEACHER)
    sheet.text((LEFT + 30, LEFT + 80), TEACHERS[captions.teacher], BODY, va="top")
    cost = describe_cost(anatomy.teacher.cost).replace("\n", ", ")
    sheet.text((LEFT + 30, LEFT + 222), cost, SMALL - 1)

    sheet.picture(example.alpha, (RESULTS, middle + 10), 200, edge=TEACHER)
    sheet.text((RESULTS, LEFT + 38), "true alpha", BODY, bold=True, ha="center", colour=TEACHER)
    columns = place_columns(anatomy)
    before = 1280.0
    for stage in anatomy.teacher.stages:
        x = columns[stage.stride]
        draw_stage(sheet, anatomy, (x, middle), stage, tint(TEACHER, 0.2), INK, edge=TEACHER)
        sheet.line([(before, middle), (x + WIDTH / 2, middle)], TEACHER)
        before = x - WIDTH / 2
        for step in anatomy.decoder:
            if stage.stride == step.stride and stage.stride in anatomy.teacher.aligned:
                ends = middle + tall(anatomy, stage) / 2, top + AXIS - tall(anatomy, step) / 2
                sheet.line([(x, ends[0]), (x, ends[1])], TEACHER, dashed=True)
    words = f"feature alignment\n(MSE) at strides {' and '.join(map(str, anatomy.teacher.aligned))}"
    sheet.text((columns[min(anatomy.teacher.aligned)] + 18, top + 48), words, SMALL)
    draw_losses(sheet, anatomy, example, captions)


def draw_losses(sheet: Sheet, anatomy: Anatomy, example: Example, captions: Captions) -> None:
    """The true alpha against the coarse one, and crops of it against refined ones."""
    middle, top = LEFT + LANE / 2, LEFT + LANE + GAP
    sheet.line([(RESULTS, middle + 85), (RESULTS, top + 18)], TEACHER, dashed=True)
    sheet.text((1396, LEFT + LANE - 22), "loss", SMALL)
    if not anatomy.refiner:
        return
    scale, left, upper = 200 / example.size[1], RESULTS - 100, middle + 10 - drawn(100, example.size)
    sides = np.full(len(example.crops), scale * example.crop_px)
    sheet.squares(scale * example.crops[:, ::-1] + (left, upper), sides, SQUARE, opacity=0.0)
    for index, pixels in enumerate(example.crop_alphas):
        sheet.picture(pixels, (1655 + 155 * index, middle + 22), 142, edge=SQUARE)
    sheet.line([(1480, middle + 22), (1584, middle + 22)], TEACHER)
    text = f"{captions.crops} crops of {example.crop_px} px, at native resolution"
    sheet.text((1584, LEFT + 48), text, BODY)
    centre, width = (2558, middle), 394
    end = 1655 + 155 * len(example.crop_alphas) - 84
    sheet.line([(end, middle + 22), (centre[0] - width / 2, middle + 22)], TEACHER)
    sheet.box(centre, (width, 190), "white", edge=TEACHER)
    sheet.text((centre[0], middle - 58), "loss", LABEL, bold=True, ha="center", colour=TEACHER)
    terms = textwrap.fill(" + ".join(captions.loss), 24)
    sheet.text((centre[0], middle + 22), terms, BODY - 1, ha="center")
    bottom = top + refiner_plot.AXIS - drawn(refiner_plot.ALPHA_PX, example.size) / 2
    sheet.line([(refiner_plot.ALPHA, middle + 95), (refiner_plot.ALPHA, bottom)], TEACHER, dashed=True)


# ---------------------------------------------------------------------------------------------------- what all share


def by(size: tuple[int, int], times: str = " × ") -> str:
    """(h, w) as width and height."""
    return f"{size[1]}{times}{size[0]}"


def describe_cost(cost: Cost) -> str:
    """Parameters and arithmetic, to three digits."""
    return f"{cost.parameters / 1e6:.3g} M parameters\n{cost.gflop:.3g} GFLOP"
