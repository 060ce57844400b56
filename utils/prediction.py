"""What every photograph and every frame of a video goes through, from its file to its renderings."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from utils.errors import UserError
from utils.foreground import foreground_colours
from utils.images import Photo, eight_bits, read_photo
from utils.inference import Predictor, predict_alpha, within_memory
from utils.jobs import Job
from utils.memory import lack_of_memory_told
from utils.renderings import Matte, Rendering
from utils.stages import Stages


class Work:
    """Reads photographs, finds their alphas, and draws and writes what is made of them; keeps the time of each stage.

    Args:
        predictor: The network.
        renderings: By label.
        max_pixels: The largest photograph that is decoded.

    Attributes:
        stages: How long it took.
    """

    def __init__(self, predictor: Predictor, renderings: dict[str, Rendering], max_pixels: int):
        self.predictor, self.renderings, self.max_pixels = predictor, renderings, max_pixels
        self.stages = Stages()

    def read(self, job: Job) -> Photo | UserError:
        """Reads a photograph; what is wrong with it is returned, for whoever comes to its turn."""
        try:
            with self.stages.time("reading"), lack_of_memory_told():
                return read_photo(job.source, max_pixels=self.max_pixels)
        except UserError as error:
            return error

    def find_alpha(self, rgb: np.ndarray) -> tuple[np.ndarray, str | None]:
        """Runs the network; where memory runs out, fewer patches are refined at a time, to the same result.

        Returns:
            The alpha, float32 (H, W) in [0, 1], and what is to be told of how it was found.

        Raises:
            UserError: The memory does not suffice for a single patch either.
        """
        with self.stages.time("network"):
            alpha, fewer = within_memory(self.predictor, lambda predictor: predict_alpha(predictor, rgb))
        return alpha, "memory ran out, done with fewer patches at a time" if fewer else None

    def colour(self, photo: Photo, alpha: np.ndarray, labels: Iterable[str]) -> Matte:
        """The matte, with the colours of the subject if one of the renderings asks for them."""
        if not any(self.renderings[label].has_foreground for label in labels):
            return Matte(photo, alpha, None)
        with self.stages.time("colours"), lack_of_memory_told():
            colours = photo.rgb if photo.deep is None else photo.deep
            return Matte(photo, alpha, foreground_colours(colours, alpha, self.predictor.device))

    def draw(self, label: str, matte: Matte) -> np.ndarray:
        """Makes a rendering of a frame: uint8, also of an alpha with 16 bits."""
        with lack_of_memory_told():
            return eight_bits(self.renderings[label].draw(matte))

    def write(self, matte: Matte, targets: Mapping[str, Path]) -> None:
        """Makes renderings of a photograph and writes them."""
        with self.stages.time("writing"), lack_of_memory_told():
            for label, path in targets.items():
                self.renderings[label].write(path, matte)
