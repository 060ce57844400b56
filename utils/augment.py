"""What training does to a picture's appearance: colour, blur, noise, JPEG; numpy and OpenCV, 8 bits a channel.

Blur, as of a camera out of focus or moving, softens a subject's edge, so picture and alpha get the same. The rest
happens behind the lens and leaves the alpha alone.
"""

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601


def mean_grey(rgb: np.ndarray) -> float:
    """The mean of uint8 (H, W, 3) as a grey level, what `adjust_colour` takes the contrast about."""
    return float(LUMA @ cv2.mean(rgb)[:3])


def adjust_colour(rgb: np.ndarray, *, brightness: float, contrast: float, saturation: float, grey: float) -> np.ndarray:
    """Brightness, contrast about a grey, and saturation about each pixel's grey, in this order.

    All three are linear, so they are one matrix and one pass; unlike one after the other they clip only once.

    Args:
        rgb: uint8 (H, W, 3).
        brightness: Factor; 1 changes nothing.
        contrast: Likewise.
        saturation: Likewise; 0 is grey.
        grey: The level that contrast leaves alone: `mean_grey` of the whole picture, of which `rgb` may be a part.
    """
    if brightness == contrast == saturation == 1:
        return rgb
    mixed = saturation * np.eye(3) + (1 - saturation) * np.tile(LUMA, (3, 1))
    offset = np.full((3, 1), (1 - contrast) * brightness * grey)
    return cv2.transform(rgb, np.hstack([contrast * brightness * mixed, offset]))


def defocus_kernel(radius_px: float) -> np.ndarray:
    """A disc with a soft rim, float32 (N, N) of sum 1: what a lens out of focus makes of a point."""
    reach = int(np.ceil(radius_px))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius_px + 0.5 - np.hypot(x, y), 0, 1)
    return (disc / disc.sum()).astype(np.float32)


def motion_kernel(radius_px: float, angle_rad: float) -> np.ndarray:
    """A line through the centre, radius_px long to either side, float32 (N, N) of sum 1."""
    reach = int(np.ceil(radius_px))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along, across = x * np.cos(angle_rad) + y * np.sin(angle_rad), y * np.cos(angle_rad) - x * np.sin(angle_rad)
    line = np.clip(1 - np.abs(across), 0, 1) * np.clip(radius_px + 0.5 - np.abs(along), 0, 1)
    return (line / line.sum()).astype(np.float32)


def blur(picture: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A uint8 picture (H, W) or (H, W, 3), or a float32 alpha (H, W) in [0, 1], filtered.

    Beyond the border its last pixel is repeated, as where a part is read (`utils.compositing.read_squares`): so a part
    at the border is blurred as the whole is there.
    """
    blurred = cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    if picture.dtype == np.uint8:
        return blurred
    # Sums of float32 leave 1 and 0 by some 1e-7: what was opaque all around stays opaque, and so on.
    blurred[blurred > 1 - 1e-6] = 1
    blurred[blurred < 1e-6] = 0
    return blurred


def add_noise(rgb: np.ndarray, std: float, rng: np.random.Generator) -> np.ndarray:
    """Independent Gaussian noise of `std` levels, of 255, on uint8 (H, W, 3)."""
    height, width, channels = rgb.shape
    noise = np.empty((height, width * channels), np.int16)  # one channel: `randn` has a strength for each
    cv2.setRNGSeed(int(rng.integers(2**31)))
    cv2.randn(noise, 0, std)  # thrice as fast as NumPy's
    return cv2.add(rgb, noise.reshape(rgb.shape), dtype=cv2.CV_8U)


def recompress(rgb: np.ndarray, quality: int) -> np.ndarray:
    """uint8 (H, W, 3) through a JPEG of this quality, 1 to 100, chroma at half resolution."""
    _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
