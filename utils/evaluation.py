"""Scoring mattes at the truth's own resolution: the same code for validation in training and for eval.py."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader, Dataset

from models import MattingOutput
from utils.errors import UserError
from utils.files import write_atomically
from utils.inference import Predictor, predict, to_alpha
from utils.metrics import METRICS, ConstantBaseline
from utils.pairs import Pair, read_pair
from utils.progress import progress

Item = TypeVar("Item")
DIFFERENCE_METRICS = ("SAD", "MSE", "MAD")  # cheap: 0.02 s for 4 megapixels


class Scores(NamedTuple):
    """Scores of one set of images.

    Attributes:
        per_image: A row an image: name, height, width, then the metrics.
        mean: Metric to its mean over the images.
        constant_alpha: The one alpha in [0, 1] that answers the whole set best, by SAD.
        constant_sad: Mean SAD of that answer: what a method that never looks at the image reaches.
    """

    per_image: list[dict[str, Any]]
    mean: dict[str, float]
    constant_alpha: float
    constant_sad: float

    def as_json(self) -> dict[str, Any]:
        """The entry of metrics.json: a number with its region, resolution, unit and number of images."""
        return {
            "images": len(self.per_image),
            "region": "whole image",
            "resolution": "ground truth's own",
            "metrics": self.mean,
            "units": {name: METRICS[name].unit for name in self.mean},
            "best_constant_alpha": {"alpha": self.constant_alpha, "SAD": self.constant_sad},
        }


class Photographs(Dataset):
    """Pairs as they are on the disk: (rgb uint8 (H, W, 3), alpha float32 (H, W), name)."""

    def __init__(self, pairs: Sequence[Pair], max_pixels: int):
        self.pairs = pairs
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, str] | UserError:
        # An error is returned, not raised: raised in a worker it would arrive wrapped in a traceback.
        pair = self.pairs[index]
        try:
            return *read_pair(pair, max_pixels=self.max_pixels), pair.name
        except UserError as error:
            return error


def photographs(pairs: Sequence[Pair], *, num_workers: int, max_pixels: int) -> Iterator[tuple]:
    """Reads pairs ahead in worker processes, in order; at most two a worker are held.

    Raises:
        UserError: A file is unreadable or the sizes of a pair differ.
    """
    loader = DataLoader(Photographs(pairs, max_pixels), batch_size=None, num_workers=num_workers, collate_fn=_as_is)
    for item in loader:
        if isinstance(item, UserError):
            raise item
        yield item


def _as_is(item: Any) -> Any:
    return item  # without this, the loader would turn arrays into tensors


class Prediction(NamedTuple):
    """One photograph with what the network says of it: rgb uint8 (H, W, 3), alpha float32 (H, W) in [0, 1]."""

    name: str
    rgb: np.ndarray
    alpha: np.ndarray
    output: MattingOutput

    def pred_alpha(self, stage: str = "refined") -> np.ndarray:
        """The alpha of a stage, "refined" or "coarse": float32 (H, W) in [0, 1]."""
        return to_alpha(getattr(self.output, f"{stage}_logits"))


def predictions(
    predictor: Predictor, pairs: Sequence[Pair], *, num_workers: int, max_pixels: int, title: str
) -> Iterator[Prediction]:
    """Predicts every pair at its own resolution, in order, with a progress bar.

    Raises:
        UserError: A pair cannot be read: a mean over fewer images is never reported.
    """
    read = photographs(pairs, num_workers=num_workers, max_pixels=max_pixels)
    for rgb, alpha, name in progress(read, total=len(pairs), desc=title, unit="img"):
        yield Prediction(name, rgb, alpha, predict(predictor, rgb))


def evenly_spaced(items: Sequence[Item], number: int) -> list[Item]:
    """At most `number` of the items, from the first to the last: a sorted list begins with one kind of picture."""
    indices = np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int)
    return [items[index] for index in indices]


class Scorer:
    """Collects the scores of a set, image by image.

    Args:
        metrics: Keys of `utils.metrics.METRICS`.
    """

    def __init__(self, metrics: Sequence[str] = DIFFERENCE_METRICS):
        self.metrics = metrics
        self.rows: list[dict[str, Any]] = []
        self.baseline = ConstantBaseline()

    def add(self, name: str, pred_alpha: np.ndarray, alpha: np.ndarray) -> None:
        """Scores one image; both alphas are float32 (H, W) in [0, 1]."""
        values = {metric: METRICS[metric].function(pred_alpha, alpha) for metric in self.metrics}
        self.rows.append({"name": name, "height": alpha.shape[0], "width": alpha.shape[1], **values})
        self.baseline.add(alpha)

    def result(self) -> Scores:
        """The scores so far.

        Raises:
            UserError: There are none.
        """
        if not self.rows:
            raise UserError("nothing to score: no images were given")
        mean = {metric: float(np.mean([row[metric] for row in self.rows])) for metric in self.metrics}
        return Scores(self.rows, mean, *self.baseline.result())


def write_scores(folder: Path, scores: dict[str, Scores]) -> None:
    """Writes metrics.json (an entry a benchmark), per_image.csv (a row an image, `name` first) and table.txt."""
    write_atomically(folder / "table.txt", lambda file: file.write(f"{score_table(scores)}\n".encode()))
    text = json.dumps({name: each.as_json() for name, each in scores.items()}, indent=2)
    write_atomically(folder / "metrics.json", lambda file: file.write(text.encode()))
    rows = [
        {"name": row["name"], "benchmark": benchmark, **row}
        for benchmark, each in scores.items()
        for row in each.per_image
    ]
    table = pd.DataFrame(rows).to_csv(index=False)
    write_atomically(folder / "per_image.csv", lambda file: file.write(table.encode()))


def score_table(scores: dict[str, Scores]) -> str:
    """A table for the terminal: a line a benchmark, with region, resolution and number of images above."""
    metrics = list(next(iter(scores.values())).mean)
    width = max(len("benchmark"), *(len(name) for name in scores))
    lines = [
        "whole image, at the ground truth's own resolution; SAD is a sum / 1000, MSE and MAD are means",
        f"{'benchmark':<{width}}  images  "
        + "  ".join(f"{metric:>9}" for metric in metrics)
        + "  SAD of best constant",
    ]
    for name, each in scores.items():
        values = "  ".join(f"{each.mean[metric]:>9.4f}" for metric in metrics)
        share = (
            f"{100 * each.mean['SAD'] / each.constant_sad:.1f} %" if each.constant_sad and "SAD" in each.mean else "-"
        )
        lines.append(f"{name:<{width}}  {len(each.per_image):>6}  {values}  {each.constant_sad:.4f} (ours: {share})")
    return "\n".join(lines)
