"""What the page of tools.app makes of a photograph, without its widgets: the matte, found once; views; files."""

import re
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
import torch
from PIL import ImageColor

from utils.compositing import compose
from utils.encoding import write_image
from utils.errors import UserError
from utils.images import Photo, eight_bits, read_photo
from utils.inference import Predictor
from utils.memory import OutOfMemory, is_lack_of_memory
from utils.prediction import Work
from utils.renderings import Matte, Rendering, parse_renderings
from utils.shrinking import shrink, shrunk_size

ViewName = Literal["Transparent", "White", "Green", "Colour", "Blurred", "Picture", "Matte"]
VIEWS: tuple[ViewName, ...] = get_args(ViewName)
COMPOSITES = tuple(view for view in VIEWS if view not in ("Transparent", "Matte"))

_SCREEN_PX = 1600  # longer side of what a screen is sent: a 12-megapixel PNG would be 15 MB at each change
_KINDS = {"Transparent": "cutout", "White": "white", "Green": "green", "Blurred": "blur", "Matte": "alpha"}
_SQUARE = 1 / 60  # side of the checkerboard's squares, of the longer side
_GREYS = (255, 226)


class Subject(NamedTuple):
    """A photograph whose matte was found.

    Attributes:
        name: Of its file, without extension.
        matte: With the colours of its subject, at the photograph's size.
        screen: The same in 8 bits, reduced to what a screen shows.
        seconds: That the network took.
    """

    name: str
    matte: Matte
    screen: Matte
    seconds: float


def find_subject(path: Path, predictor: Predictor, *, max_pixels: int) -> Subject:
    """Reads a photograph and runs the network, which no view does again.

    Raises:
        UserError: The file cannot be used.
    """
    (cutout,) = parse_renderings([_KINDS["Transparent"]])
    work = Work(predictor, {cutout.label: cutout}, max_pixels)
    photo = read_photo(path, max_pixels=max_pixels)
    alpha, _ = work.find_alpha(photo.rgb)
    matte = work.colour(photo, alpha, work.renderings)
    return Subject(path.stem, matte, _reduced(matte), work.stages.seconds["network"])


def choose_rendering(view: ViewName, *, colour: str, picture: Path | None, max_pixels: int) -> Rendering:
    """What draws a view.

    Args:
        view: Its name.
        colour: Of the view "Colour", as `hex_colour` takes it.
        picture: Of the view "Picture".
        max_pixels: The largest picture that is read.

    Raises:
        UserError: The picture or the colour cannot be used.
    """
    if view in _KINDS:
        return parse_renderings([_KINDS[view]])[0]
    if view == "Colour":
        return parse_renderings([f"color:{hex_colour(colour)}"])[0]
    if picture is None:
        raise UserError("choose a picture for the background")
    return parse_renderings([f"image:{picture}"], max_pixels=max_pixels)[0]


def draw_for_screen(subject: Subject, rendering: Rendering) -> np.ndarray:
    """A view as uint8 (h, w) or (h, w, 3), reduced; what is transparent shows a checkerboard."""
    picture = rendering.draw(subject.screen)
    if not rendering.has_alpha:
        return picture
    alpha = picture[..., 3] * np.float32(1 / 255)
    return compose(np.ascontiguousarray(picture[..., :3]), _checkerboard(alpha.shape), alpha)


def write_for_screen(picture: np.ndarray, subject: Subject, folder: Path) -> Path:
    """Writes a view, or the reduced photograph, into a new folder in `folder`."""
    path = _new(folder, f"{subject.name}.jpg")
    write_image(path, picture, icc_profile=subject.matte.photo.icc_profile if picture.ndim == 3 else None)
    return path


def write_result(subject: Subject, rendering: Rendering, folder: Path) -> Path:
    """Writes a PNG at the photograph's size, NAME_cutout.png say, into a new folder in `folder`."""
    path = _new(folder, f"{subject.name}_{rendering.label}.png")
    rendering.write(path, subject.matte)
    return path


def describe_subject(subject: Subject, predictor: Predictor) -> str:
    """Size, time and device in a line."""
    height, width = subject.matte.alpha.shape
    device = predictor.device
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return f"{width} × {height} px · network {subject.seconds:.1f} s · {place}, {predictor.precision}"


def hex_colour(text: str) -> str:
    """A colour as pickers give it, "rgba(12.5, 30, 255, 1)" say, or as people write it, as "#rrggbb".

    Raises:
        UserError: It is none.
    """
    whole = re.sub(r"\d+\.\d+", lambda found: str(round(float(found[0]))), text)
    try:
        levels = ImageColor.getrgb(whole)[:3]
    except ValueError as error:
        raise UserError(f"{text}: not a colour; give #RRGGBB") from error
    return "#" + "".join(f"{min(level, 255):02x}" for level in levels)


def explain(error: Exception, folder: Path, *, max_pixels: int) -> str | None:
    """An error in a line for whoever uses the page, who knows neither our files nor our flags; None: a fault of ours.

    Args:
        error: Of any function here.
        folder: That holds the page's files, each in a folder of its own.
        max_pixels: The largest picture that is read.
    """
    if isinstance(error, OutOfMemory) or is_lack_of_memory(error):
        return "This photograph is too large for the memory there is. Reduce it first."
    if not isinstance(error, UserError):
        return None
    text = re.sub(re.escape(str(folder)) + r"[/\\][^/\\]+[/\\]", "", str(error))
    name = text.partition(": ")[0]
    if error.kind == "too-large":
        return f"{name} has more than {max_pixels / 1e6:g} megapixels. Reduce it first."
    if error.kind == "not-an-image":
        return f"{name} is no picture that can be read here. Save it as JPEG, PNG, WebP or TIFF."
    return text


def _reduced(matte: Matte) -> Matte:
    photo, size = matte.photo, shrunk_size(matte.alpha.shape, _SCREEN_PX)
    rgb, foreground = shrink(photo.rgb, size), shrink(eight_bits(matte.foreground), size)
    return Matte(Photo(rgb, None, photo.icc_profile), shrink(matte.alpha, size), foreground)


def _checkerboard(shape: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w, 3): what pictures are shown over to say that nothing is there."""
    side = max(1, round(max(shape) * _SQUARE))
    rows, columns = (np.arange(length) // side for length in shape)
    grey = np.where((rows[:, None] + columns) % 2, *(np.uint8(level) for level in _GREYS))
    return cv2.merge([grey] * 3)


def _new(folder: Path, name: str) -> Path:
    """A file in a folder of its own: so it can have any name."""
    return Path(tempfile.mkdtemp(dir=folder), name)
