"""The refiner's part of the figure of the architecture: what it sees, its blocks, and what it returns."""

import numpy as np

from utils.anatomy import Convolution, RefinerAnatomy
from utils.diagram import BODY, LABEL, SMALL, TITLE, Point, Sheet, drawn, tint
from utils.example import Example
from utils.plots import COARSE, REFINED

ALPHA, ALPHA_PX, AXIS = 2612, 286, 330  # x and width of the final alpha; y of the layers, from the panel's top
TILE, BOX, CARD = 170, (92, 150), 9  # side of what it sees; size of its layers; how far repeated ones stand out
MOST_CARDS = 4
GLYPH, PITCH = 60, 71  # side of a kernel's picture, from one to the next
PLUS = 24  # radius of circles


def draw_refiner(
    sheet: Sheet, refiner: RefinerAnatomy, example: Example, panel: tuple[float, float, float, float]
) -> None:
    """Draws it on its panel.

    Args:
        sheet: The sheet.
        refiner: What is drawn.
        example: With a square of the picture.
        panel: Its left, top, right and bottom, px.
    """
    left, top, right, bottom = panel
    sheet.panel(*panel, REFINED)
    sheet.heading(
        (left + 290, top + 40), "3", "Refiner", "chosen squares, at native resolution; elsewhere Δ = 0", REFINED
    )
    axis, begin = top + AXIS, left + 300
    draw_inputs(sheet, refiner, example, panel, (begin, axis))
    draw_layers(sheet, refiner, example, (begin, axis), top + 144)
    beam = [(begin + 248 + dx, axis + BOX[1] / 2) for dx in (-62, 62)]
    inside = (left + 290, top + 535, right - 25, bottom - 62)
    sheet.beam(tuple(beam), ((inside[0] + 20, inside[1]), (inside[0] + 600, inside[1])), tint(REFINED, 0.16))
    draw_block(sheet, refiner, inside)
    cost = (
        f"{refiner.cost.parameters / 1e6:.3g} M parameters, "
        f"{refiner.cost.gflop:.3g} GFLOP a megapixel of {refiner.side_px}-px squares with their halo"
    )
    sheet.text((inside[0] + 5, bottom - 30), cost, SMALL - 1)


def draw_inputs(sheet: Sheet, refiner: RefinerAnatomy, example: Example, panel: tuple, to: Point) -> None:
    """A square as the refiner sees it."""
    left, top, _, bottom = panel
    x, coarse, rgb = left + 140, top + 144, bottom - 200
    tiles = {"coarse alpha": (coarse, example.square.coarse_alpha), "RGB": (rgb, example.square.rgb)}
    if refiner.gradient_map:
        gradients = (coarse + rgb) / 2
        tiles["gradient map"] = (gradients, example.square.gradients)
        sheet.line([(x, rgb - TILE / 2), (x, gradients + TILE / 2 + 42)], REFINED)
        sheet.text((x + 16, (gradients + rgb) / 2 + 20), "Sobel", SMALL)
    for name, (y, pixels) in tiles.items():
        sheet.picture(pixels, (x, y), TILE, edge=COARSE if y == coarse else REFINED)
        sheet.text((x, y + TILE / 2 + 22), name, BODY, ha="center")
        start = y + 45 * (y == coarse)  # beside the logits, which leave from its middle
        sheet.line([(x + TILE / 2, start), (to[0] - 36, start), (to[0] - 36, to[1]), to], REFINED)
    inner = TILE * (1 - 2 * example.square.halo_px / len(example.square.rgb))
    sheet.box((x, rgb), (inner, inner), "none", edge="white", dashed=True, radius=0, zorder=5)
    sheet.text((x, rgb + TILE / 2 + 56), f"halo {refiner.halo_px} px", SMALL, ha="center")


def draw_layers(sheet: Sheet, refiner: RefinerAnatomy, example: Example, begin: Point, logits: float) -> None:
    """From what it sees to the alpha; the coarse logits pass above, at the height `logits`."""
    x, axis = begin
    stem, blocks, last, plus, sigmoid = (x + step for step in (46, 248, 416, 508, 582))
    cards = min(refiner.blocks, MOST_CARDS)
    sheet.line([(stem + 46, axis), (blocks - 62, axis)], REFINED)
    sheet.line([(blocks + 62, axis), (last - 46, axis)], REFINED)
    sheet.line([(last + 46, axis), (plus - PLUS, axis)], REFINED)
    sheet.line([(plus + PLUS, axis), (sigmoid - PLUS, axis)], REFINED)
    sheet.line([(x - 75, logits), (plus, logits), (plus, axis - PLUS)], COARSE)
    sheet.text((x + 5, logits + 22), "coarse logits", SMALL)
    for centre, width, number in ((stem, BOX[0], 1), (blocks, 124, cards)):
        for card in range(number - 1, 0, -1):
            sheet.box((centre + CARD * card, axis - CARD * card), (width, BOX[1]), REFINED, edge="white", radius=8)
        size = (width, BOX[1])
        sheet.module((centre, axis), size, REFINED, f"1/{refiner.cell_px}", refiner.width, edge="white")
    sheet.box((last, axis), BOX, tint(REFINED, 0.3), radius=8)
    sheet.text((last, axis), "Δ", TITLE, bold=True, ha="center")
    names = {stem: "stem", blocks: f"{refiner.blocks} block{'s' * (refiner.blocks > 1)}", last: "residual"}
    for centre, name in names.items():
        sheet.text((centre, axis - BOX[1] / 2 - CARD * (cards - 1) - 22), name, BODY, ha="center")
    sheet.plus((plus, axis), PLUS, REFINED)
    sheet.circle((sigmoid, axis), PLUS, "white", REFINED)
    sheet.text((sigmoid, axis), "σ", LABEL, ha="center", colour=REFINED, bold=True)
    sheet.text((sigmoid, axis + PLUS + 20), "sigmoid", SMALL, ha="center")
    sheet.line([(sigmoid + PLUS, axis), (ALPHA - ALPHA_PX / 2, axis)], REFINED)
    sheet.picture(example.alpha, (ALPHA, axis), ALPHA_PX, edge=REFINED)
    below = axis + drawn(ALPHA_PX, example.size) / 2
    sheet.text((ALPHA, below + 26), "alpha", LABEL, bold=True, ha="center", colour=REFINED)
    sheet.text((ALPHA, below + 62), "native resolution", SMALL, ha="center")


def draw_block(sheet: Sheet, refiner: RefinerAnatomy, inside: tuple[float, float, float, float]) -> None:
    """A block: branches beside each other, then what joins them, and the way past them."""
    left, top, right, bottom = inside
    centre, size = ((left + right) / 2, (top + bottom) / 2), (right - left, bottom - top)
    sheet.box(centre, size, "white", edge=tint(REFINED, 0.5), zorder=1.5)
    sheet.text((left + 25, top + 30), "dilated inception block", BODY, bold=True, colour=REFINED)
    middle, enter = (top + 64 + bottom) / 2 - 2, left + 45
    widest = max(branch.dilation * (branch.kernel // 2) for branch in refiner.branches)
    for index, branch in enumerate(refiner.branches):
        y = middle + (index - (len(refiner.branches) - 1) / 2) * PITCH
        sheet.line([(enter, middle), (left + 85, middle), (left + 85, y), (left + 125, y)], REFINED, width_px=3)
        sheet.box((left + 265, y), (280, GLYPH + 4), tint(REFINED, 0.07), edge=tint(REFINED, 0.5), width_px=2, radius=8)
        draw_taps(sheet, branch, (left + 165, y), widest)
        sheet.text((left + 210, y), f"{branch.kernel}×{branch.kernel}", BODY, bold=True)
        if branch.kernel > 1:
            sheet.text((left + 280, y), f"dilation {branch.dilation}", SMALL)
        way = [(left + 405, y), (left + 450, y), (left + 450, middle), (left + 490, middle)]
        sheet.line(way, REFINED, width_px=3, arrow=False)
    x = left + 562
    for conv in refiner.fused:
        sheet.line([(x - 96, middle), (x - 46, middle)], REFINED)
        sheet.module((x, middle), (BOX[0], 120), REFINED, f"{conv.kernel}×{conv.kernel}", conv.channels)
        x += 142
    plus = x - 20
    sheet.line([(x - 96, middle), (plus - PLUS, middle)], REFINED)
    sheet.line([(enter, middle), (enter, top + 62), (plus, top + 62), (plus, middle - PLUS)], REFINED, width_px=3)
    sheet.line([(plus + PLUS, middle), (plus + PLUS + 55, middle)], REFINED)
    sheet.plus((plus, middle), PLUS, REFINED)


def draw_taps(sheet: Sheet, branch: Convolution, centre: Point, widest: int) -> None:
    """The pixels, or cells of them, that a convolution reads, among those that any of the branches reads."""
    pitch = max(4, (GLYPH - 6) // (2 * widest + 1))
    steps = np.arange(-widest, widest + 1)
    places = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    near = np.abs(places).max(axis=1) <= branch.dilation * (branch.kernel // 2)
    read = near & (places % branch.dilation == 0).all(axis=1)
    for chosen, colour in ((~read, tint(REFINED, 0.13)), (read, REFINED)):
        side = pitch - 3  # with their outlines, squares are a pixel apart
        corners = np.round(centre) + places[chosen] * pitch - side / 2
        sheet.squares(corners, np.full(chosen.sum(), side), colour, opacity=1)
