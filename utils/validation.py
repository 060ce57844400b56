"""Validation between epochs: shared among processes, scored as eval.py scores, and written into the run's folder."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from utils.distributed import Processes
from utils.evaluation import predictions
from utils.inference import Predictor
from utils.interruption import Interruption
from utils.metrics import sad
from utils.pairs import Pair, evenly_spaced
from utils.plots import Preview, save_curves, save_previews
from utils.run_folder import RunFolder, read_tables
from utils.run_log import RunLog
from utils.scoring import DIFFERENCE_METRICS, ImageScores, Scores, mean_scores, score_image


class Share(NamedTuple):
    """What a process has found out about its share of the images, of each one; a preview of those that are shown."""

    scores: list[ImageScores]
    coarse_sads: list[float]
    previews: list[Preview | None]


class Validation(NamedTuple):
    """What all processes have found out.

    Attributes:
        scores: Of all images.
        coarse_sad: Mean SAD of the coarse alphas.
        previews: Of some images.
    """

    scores: Scores
    coarse_sad: float
    previews: list[Preview]


@torch.inference_mode()
def validate(
    predictor: Predictor,
    pairs: Sequence[Pair],
    *,
    previews: int,
    num_workers: int,
    max_pixels: int,
    world: Processes,
    interruption: Interruption,
) -> Share:
    """Scores this process' share at native resolution, with eval.py's code, until it is interrupted.

    Args:
        predictor: Its network is put into eval mode.
        pairs: Of all processes.
        previews: How many of them are drawn.
        num_workers: Threads that read ahead.
        max_pixels: Largest file that is decoded.
        world: The processes.
        interruption: Ends it after the image at hand.
    """
    predictor.network.eval()
    found = Share([], [], [])
    shown = {pair.name for pair in evenly_spaced(pairs, previews)}
    reading = {"num_workers": num_workers, "max_pixels": max_pixels}
    for item in predictions(predictor, world.share(pairs), **reading, title="validate", quiet=not world.is_first):
        found.scores.append(score_image(item.name, item.pred_alpha(), item.alpha, metrics=DIFFERENCE_METRICS))
        found.coarse_sads.append(sad(item.pred_alpha("coarse"), item.alpha))
        found.previews.append(item.preview() if item.name in shown else None)
        if interruption.signal:
            break
    return found


def merge_shares(shares: Sequence[Share], world: Processes) -> Validation:
    """The means over all images, and the pictures in their order: the same for any number of processes, to rounding."""
    scores = mean_scores(world.interleave([share.scores for share in shares]))
    coarse_sad = float(np.mean(world.interleave([share.coarse_sads for share in shares])))
    previews = world.interleave([share.previews for share in shares])
    return Validation(scores, coarse_sad, [preview for preview in previews if preview is not None])


def record_validation(found: Validation, folder: RunFolder, log: RunLog, *, epoch: int, step: int) -> None:
    """A row of validation.csv, a line on the screen, the curves so far, and the pictures of this validation."""
    mean, constant_sad = found.scores.mean, found.scores.constant_sad
    log.add_validation({"epoch": epoch, "step": step, **mean, "coarse_SAD": found.coarse_sad})
    tqdm.write(
        f"epoch {epoch}: validation SAD {mean['SAD']:.4f} (coarse {found.coarse_sad:.4f}, best constant alpha "
        f"{constant_sad:.4f}), MSE {mean['MSE']:.5f}, MAD {mean['MAD']:.5f}"
    )
    save_curves(folder.path / "curves.png", *read_tables(folder.path), constant_sad)
    if found.previews:
        title = f"validation after epoch {epoch}: SAD {mean['SAD']:.3f} over {len(found.scores.per_image)} images"
        save_previews(folder.previews / f"epoch_{epoch:03d}.png", found.previews, title)
