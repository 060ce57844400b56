"""What a network says of a set of pairs, one after the other."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from models import MattingOutput
from models.patches import Patches, enlarge
from models.routing import choose_patches
from utils.errors import UserError
from utils.inference import Predictor, predict, to_alpha, within_memory
from utils.memory import OutOfMemory
from utils.pairs import Pair, read_pair
from utils.parallel import ordered_map
from utils.plots import Preview, make_preview
from utils.progress import progress


class Prediction(NamedTuple):
    """One photograph with what the network says of it: rgb uint8 (H, W, 3), alpha float32 (H, W) in [0, 1]."""

    name: str
    rgb: np.ndarray
    alpha: np.ndarray
    output: MattingOutput
    predictor: Predictor

    def pred_alpha(self, stage: str = "refined") -> np.ndarray:
        """The alpha of a stage, "refined" or "coarse", or the expected gain ("error"): float32 (H, W) in [0, 1]."""
        logits = getattr(self.output, f"{stage}_logits").float()
        return to_alpha(logits if logits.shape[-2:] == self.alpha.shape else enlarge(logits, self.alpha.shape))

    def preview(self) -> Preview:
        """A row of the preview picture."""
        coarse, gain, refined = (self.pred_alpha(stage) for stage in ("coarse", "error", "refined"))
        if self.predictor.network.refiner is None:  # what nobody trained says nothing
            gain = np.zeros_like(gain)
        return make_preview(self.rgb, self.alpha, coarse, gain, refined, self.patches())

    def patches(self) -> list[Patches]:
        """The squares that were refined: chosen once more, as few predictions are asked for them."""
        refiner = self.predictor.network.refiner
        if refiner is None:
            return []
        return choose_patches(self.output.error_logits, self.alpha.shape, self.predictor.routing, refiner.work)


def predictions(
    predictor: Predictor, pairs: Sequence[Pair], *, num_workers: int, max_pixels: int, title: str, quiet: bool = False
) -> Iterator[Prediction]:
    """Predicts every pair at its own resolution, in order, with a progress bar unless it is to be quiet.

    Raises:
        UserError: A pair cannot be read, or is too large for the memory even with fewer patches at a time: a mean
            over fewer images is never reported.
    """
    threads = max(1, num_workers)  # decoding holds no lock
    with ThreadPoolExecutor(threads) as executor:
        read = ordered_map(
            lambda pair: (pair.name, *read_pair(pair, max_pixels=max_pixels)), pairs, executor=executor, ahead=threads
        )
        for name, rgb, alpha in progress(read, total=len(pairs), desc=title, unit="img", disable=quiet):
            try:
                output, _ = within_memory(predictor, lambda predictor, rgb=rgb: predict(predictor, rgb))
            except OutOfMemory as error:
                raise UserError(f"{name}: {error}") from error
            yield Prediction(name, rgb, alpha, output, predictor)
