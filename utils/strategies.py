"""The strategies of the study and the switches between them: how each is trained, and what is measured of it.

Three strategies: the Swin alone (baseline), the same on mattes that were grown (dilation), and the whole method (tsr),
which has a teacher and a refiner. The other arms turn one thing on or off. `tsr-dense` is `tsr` once more, refined
everywhere.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from utils.boundary import band_scores, edge_length, fog, sharpness
from utils.evaluation import predictions
from utils.files import write_json
from utils.images import MAX_PIXELS
from utils.inference import Predictor, load_model
from utils.learner import PARTS
from utils.metrics import matting
from utils.pairs import Pair
from utils.run_folder import read_tables
from utils.scoring import BAND_RADII_PX

_ALONE = ("--teacher", "none", "--no-refiner", "--error-weight", "0")
ARMS: dict[str, tuple[str, ...]] = {  # to the flags of train.py
    "baseline": _ALONE,
    "dilation": (*_ALONE, "--dilate-px", "2"),
    "tsr": (),
    "teacher only": ("--no-refiner", "--error-weight", "0"),
    "refiner only": ("--teacher", "none"),
    "random teacher": ("--teacher-epochs", "0"),
    "swin teacher": ("--teacher", "swin"),
    "no gradient map": ("--no-gradient-map",),
    "no zero initialisation": ("--no-zero-init",),
}
DENSE = "tsr-dense"
STRATEGIES = ("baseline", "dilation", "tsr")
METRICS = ("SAD", "MSE", "Grad", "Conn")
EDGES = {"fog": fog, "sharpness": sharpness, "edge_length": edge_length}
_SCORES = "scores.json"


class Run(NamedTuple):
    """A network of the study.

    Attributes:
        data: Name of its data.
        arm: Of `ARMS`.
        seed: Of weights, order and augmentation.
        folder: Of its checkpoints and scores.
    """

    data: str
    arm: str
    seed: int
    folder: Path

    @property
    def is_scored(self) -> bool:
        """Whether nothing is left to do."""
        return (self.folder / _SCORES).is_file()


def plan(data: Sequence[str], arms: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Run]:
    """All networks; a study that ends early has all arms of a seed, then the strategies of the others."""
    runs = [
        Run(name, arm, seed, folder / name / f"{arm.replace(' ', '_')}-{seed}")
        for seed in seeds
        for name in data
        for arm in arms
    ]
    return sorted(runs, key=lambda run: (run.seed != seeds[0]) * (1 + (run.arm not in STRATEGIES)))


def training_command(run: Run, *, preset: str, dataset: str, data_root: Path, epochs: int, device: str) -> list[str]:
    """How train.py is called, again and again until it has ended."""
    flags: Mapping[str, Any] = {
        "--dataset": dataset, "--data-root": data_root, "--run-dir": run.folder, "--seed": run.seed, "--epochs": epochs,
        "--device": device, "--previews": 0,
    }  # fmt: skip
    given = [str(each) for pair in flags.items() for each in pair]
    train = Path(__file__).resolve().parents[1] / "train.py"
    return [sys.executable, str(train), preset, *given, "--auto-resume", *ARMS[run.arm]]


def score(run: Run, pairs: Sequence[Pair], device: str) -> None:
    """Scores the last weights of a run, not those that were best on these very pictures, and writes what it measured.

    The file holds the mean of each metric by arm, for `tsr` routed and dense.
    """
    predictor = load_model(run.folder / "last.pth", device)
    scores = {run.arm: score_pictures(predictor, pairs)}
    if run.arm == "tsr":
        scores[DENSE] = score_pictures(replace(predictor, routing=predictor.routing.everything()), pairs)
    write_json(run.folder / _SCORES, {"pictures": [pair.name for pair in pairs], "scores": scores})


def scored_pictures(run: Run) -> list[str]:
    """Names of the pictures that a run was scored on."""
    return json.loads((run.folder / _SCORES).read_text(encoding="utf-8"))["pictures"]


def score_pictures(predictor: Predictor, pairs: Sequence[Pair]) -> dict[str, float]:
    """Means over pictures: metrics over the whole image, SAD and MSE around the true edge, what the edges look like.

    A picture without pixels of a band, or without an edge, takes no part in their means.
    """
    rows: list[dict[str, float]] = []
    for item in predictions(predictor, pairs, num_workers=0, max_pixels=MAX_PIXELS, title="", quiet=True):
        pred = item.pred_alpha()
        row = matting(pred, item.alpha, METRICS, {"": None})
        row |= {name: of_edge(pred, item.alpha) for name, of_edge in EDGES.items()}
        for radius, band in zip(BAND_RADII_PX, band_scores(pred, item.alpha, BAND_RADII_PX), strict=True):
            row |= {f"{name}_band{radius}": band[name] for name in ("SAD", "MSE") if band["pixels"]}
        rows.append(row)
    return pd.DataFrame(rows).mean().to_dict()  # of the values that are numbers


def gather(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row for each arm of each scored run: what trained it and how it did, by epoch and in the end.

    Seconds a step are the median over the log's rows: a training may have been interrupted, and may have had company.
    """
    rows = []
    for run in runs:
        if not run.is_scored:
            continue
        log, validation = read_tables(run.folder)
        starts = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))["starts"]
        about = {
            "data": run.data, "seed": run.seed, "steps": int(log["step"].max()),
            "commits": sorted({start["commit"] for start in starts}),
            "step_s": float(log[[f"{part}_s" for part in PARTS]].sum(axis=1).median()),
            "validation": validation.replace({np.nan: None}).to_dict("records"),
        }  # fmt: skip
        content = json.loads((run.folder / _SCORES).read_text(encoding="utf-8"))
        rows += [{**about, "arm": arm, **scores} for arm, scores in content["scores"].items()]
    return rows
