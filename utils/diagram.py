"""A sheet to draw diagrams on: boxes, lines, words and pictures at places in pixels, from the top left."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.text import Text
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from utils.files import write_atomically
from utils.plots import INK

TITLE, LABEL, BODY, SMALL = 42, 30, 27, 23  # px of letters: a page shows a sheet at about a third of its size
DPI = 200  # of the sheet's pixels; fonts are given in pixels, too
SINK = 0.12  # how far below the middle of digits a text's centre lies, of its size
HEAD_PX, ROUND_PX = 17, 14  # length of arrow heads; radius of corners
Point = tuple[float, float]


class Sheet:
    """A white sheet.

    Args:
        width: In px.
        height: In px.

    Attributes:
        figure: What is drawn.
        words: All texts.
        routes: The corners of all lines and arrows, (N, 2) each.
    """

    def __init__(self, width: float, height: float):
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()
        self.words: list[Text] = []
        self.routes: list[np.ndarray] = []

    def text(
        self, at: Point, text: str, size_px: float, *, colour: str = INK, ha: str = "left", va: str = "middle",
        bold: bool = False,
    ) -> None:  # fmt: skip
        """Writes lines of text, `at` being their anchor as `ha` and `va` say: the same with descenders or without."""
        if va == "middle":
            at, va = (at[0], at[1] - SINK * size_px), "center_baseline"
        weight = "bold" if bold else "normal"
        style = {"color": colour, "ha": ha, "va": va, "weight": weight, "linespacing": 1.25, "zorder": 6}
        self.words.append(self.axes.text(*at, text, fontsize=size_px * 72 / DPI, parse_math=False, **style))

    def box(
        self, centre: Point, size: tuple[float, float], fill: str, *, edge: str = "none", dashed: bool = False,
        radius: float = ROUND_PX, width_px: float = 3, zorder: float = 3,
    ) -> None:  # fmt: skip
        """Draws a rounded rectangle of `size` (width, height)."""
        radius = min(radius, *(side / 2 for side in size))
        corner = (centre[0] - size[0] / 2, centre[1] - size[1] / 2)
        style = {"fc": fill, "ec": edge, "lw": points(width_px), "ls": (0, (5, 3)) if dashed else "-"}
        self.axes.add_patch(
            FancyBboxPatch(corner, *size, boxstyle=f"round,pad=0,rounding_size={radius}", zorder=zorder, **style)
        )

    def module(
        self, centre: Point, size: tuple[float, float], fill: str, what: str, channels: int, *, ink: str = "white",
        edge: str = "none", dashed: bool = False,
    ) -> None:  # fmt: skip
        """Draws a box with what it is, such as a stride or a kernel, over its channels."""
        self.box(centre, size, fill, edge=edge, dashed=dashed, radius=8)
        self.text((centre[0], centre[1] - 15), what, BODY, colour=ink, bold=True, ha="center")
        self.text((centre[0], centre[1] + 16), f"{channels}", SMALL + 1, colour=ink, ha="center")

    def circle(self, centre: Point, radius: float, fill: str, edge: str) -> None:
        """Draws a circle, filled so that no line shows through."""
        self.axes.add_patch(Circle(centre, radius, fc=fill, ec=edge, lw=points(3.5), zorder=5))

    def plus(self, centre: Point, radius: float, colour: str) -> None:
        """Draws the circle where two things are added."""
        self.circle(centre, radius, "white", colour)
        for dx, dy in ((radius / 2, 0), (0, radius / 2)):
            x, y = (centre[0] - dx, centre[0] + dx), (centre[1] - dy, centre[1] + dy)
            self.axes.plot(x, y, color=colour, lw=points(4), zorder=6, solid_capstyle="round")

    def line(
        self, corners: Sequence[Point], colour: str, *, arrow: bool = True, dashed: bool = False, width_px: float = 4,
    ) -> None:  # fmt: skip
        """Draws a line with rounded corners, which ends in an arrow head if it is to."""
        places = np.array(corners, float)
        places = places[[True, *np.diff(places, axis=0).any(axis=1)]]  # a way around nothing is straight
        self.routes.append(places)
        step = places[-1] - places[-2]
        forwards = step / np.hypot(*step)
        sideways = 0.42 * HEAD_PX * forwards[::-1] * (1, -1)
        if arrow:
            base = places[-1] - HEAD_PX * forwards
            head = Polygon([places[-1], base + sideways, base - sideways], fc=colour, ec="none", zorder=2.5)
            self.axes.add_patch(head)
            places = np.vstack([places[:-1], base + 2 * forwards])
        style = {"lw": points(width_px), "ls": (0, (3.2, 2)) if dashed else "-", "capstyle": "butt"}
        self.axes.add_patch(PathPatch(_rounded(places), fc="none", ec=colour, zorder=2, **style))

    def picture(
        self, pixels: np.ndarray, centre: Point, width: float, *, edge: str = INK, shape: tuple[int, int] | None = None
    ) -> None:
        """Shows pixels, uint8 (h, w) or (h, w, 3), in a frame; `shape` (h, w) gives other proportions than theirs."""
        height = drawn(width, shape or pixels.shape[:2])
        left, top = centre[0] - width / 2, centre[1] - height / 2
        limits = self.axes.get_xlim(), self.axes.get_ylim()
        extent = (left, left + width, top + height, top)
        style = {"cmap": "gray", "vmin": 0, "vmax": 255, "interpolation": "antialiased", "aspect": "auto"}
        self.axes.imshow(pixels, extent=extent, zorder=3, **style)
        self.axes.set(xlim=limits[0], ylim=limits[1])  # which showing a picture changes
        self.axes.add_patch(Rectangle((left, top), width, height, fc="none", ec=edge, lw=points(3), zorder=4))

    def squares(self, corners: np.ndarray, sides: np.ndarray, colour: str, *, opacity: float) -> None:
        """Draws squares, tinted: `corners` (N, 2), left and top, and `sides` (N,)."""
        shown = [Rectangle(corner, side, side) for corner, side in zip(corners, sides, strict=True)]
        style = {"facecolor": (*to_rgb(colour), opacity), "edgecolor": colour, "lw": points(2), "zorder": 3.5}
        self.axes.add_collection(PatchCollection(shown, **style), autolim=False)

    def beam(self, above: tuple[Point, Point], below: tuple[Point, Point], colour: str) -> None:
        """Fills between an edge and a lower one: what is below shows what is above from nearer."""
        self.axes.add_patch(Polygon([*above, *below[::-1]], fc=colour, ec="none", zorder=1))

    def panel(self, left: float, top: float, right: float, bottom: float, colour: str, *, dashed: bool = False) -> None:
        """Draws the ground of a part."""
        centre, size = ((left + right) / 2, (top + bottom) / 2), (right - left, bottom - top)
        self.box(centre, size, tint(colour, 0.07), edge=tint(colour, 0.45), dashed=dashed, radius=24, zorder=0)

    def heading(self, at: Point, number: str, title: str, below: str, colour: str) -> None:
        """Writes a number in a disc, a title, and what it means."""
        self.circle((at[0] + 24, at[1]), 24, colour, colour)
        self.text((at[0] + 24, at[1] + 1), number, LABEL, colour="white", bold=True, ha="center")
        self.text((at[0] + 62, at[1]), title, TITLE, colour=colour, bold=True)
        self.text((at[0], at[1] + 36), below, BODY, va="top")

    def write(self, path: Path) -> None:
        """Writes the sheet as .png or .jpg, all of it or nothing; a PNG keeps its texts to be compared."""
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())  # nothing on it is transparent
        info, buffer = PngInfo(), io.BytesIO()
        info.add_itxt("Description", "\n".join(word.get_text() for word in self.words))
        picture.save(buffer, {".png": "PNG", ".jpg": "JPEG"}[path.suffix], optimize=True, quality=95, pnginfo=info)
        write_atomically(path, lambda file: file.write(buffer.getbuffer()))


def drawn(width: float, size: tuple[int, int]) -> float:
    """Height of a picture of `size` (h, w) that is drawn so wide."""
    return width * size[0] / size[1]


def points(px: float) -> float:
    """Pixels of the sheet as typographical points, which matplotlib measures lines in."""
    return px * 72 / DPI


def tint(colour: str, strength: float) -> str:
    """A colour mixed with white: 0 is white, 1 the colour."""
    mixed = (1 - strength * (1 - np.array(to_rgb(colour)))) * 255
    return "#" + "".join(f"{round(level):02x}" for level in mixed)


def _rounded(places: np.ndarray) -> Outline:
    """A path through places whose corners are rounded where there is room."""
    vertices, codes = [places[0]], [Outline.MOVETO]
    for before, corner, after in zip(places, places[1:], places[2:], strict=False):
        to, away = before - corner, after - corner
        radius = min(ROUND_PX, np.hypot(*to) / 2, np.hypot(*away) / 2)
        vertices += [corner + radius * to / np.hypot(*to), corner, corner + radius * away / np.hypot(*away)]
        codes += [Outline.LINETO, Outline.CURVE3, Outline.CURVE3]
    return Outline([*vertices, places[-1]], [*codes, Outline.LINETO])
