"""What it is worth to refine only where the router says, and at native resolution: two tables, plots and a picture.

python -m tools.study_refinement --checkpoint P --dataset custom --data-root D [--long-sides 1024 2048 4096] --out DIR

Recall: how much of the error that dense refinement removes is removed at which share of its work, as the threshold of
the router moves; beside it what a router that knows the truth would do, and two guesses from the coarse alpha.
Native: the scores of refinement at full size, beside those of refinement at --rival-side whose alpha is enlarged.
Pictures and true alphas are resized to each long side, by the area filter to smaller ones, by the cubic to larger ones.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from config import RUNS, RefinementStudyConfig, parse_cli
from models.patches import Patches
from utils.boundary import edge_distance
from utils.errors import UserError, run_script
from utils.files import require_apart, require_writable, write_json
from utils.inference import newest_best
from utils.metrics import matting
from utils.names import shorten
from utils.pairs import Pair, evenly_spaced, find_pairs, read_pair
from utils.progress import progress
from utils.recall import THRESHOLDS, Recall, Refined, load_refiner, mean_row, refine, refinement_gain
from utils.refinement_plots import Goal, Part, best_window, cut_part, save_native, save_part, save_recall
from utils.run_folder import provenance, versions
from utils.scoring import BAND_RADII_PX
from utils.shrinking import shrink

REMOVED = 0.95  # the share of the error whose price is asked for
GOALS = {1024: Goal(REMOVED, 0.45), 2048: Goal(REMOVED, 0.30), 4096: Goal(REMOVED, 0.20)}
CROP_PX = 512
SCORES = {
    "SAD": "SAD, whole",
    **{f"SAD_band{radius}": f"SAD, {radius} px band" for radius in BAND_RADII_PX},
    "Grad": "Grad, whole",
}


def main() -> int:
    config = parse_cli(RefinementStudyConfig, prog="python -m tools.study_refinement", description=__doc__)
    pairs = choose_pairs(config)
    require_writable(config.out, "--out")
    require_apart(config.out, "--out", {folder for pair in pairs for folder in (pair.image.parent, pair.alpha.parent)})
    checkpoint = config.checkpoint or newest_best(RUNS)
    predictor = load_refiner(checkpoint, config.device)
    rival = predictor if config.rival is None else load_refiner(config.rival, config.device)

    sides = sorted(set(config.long_sides))
    recalls = {side: Recall(predictor) for side in sides}
    natives = {side: Native(side) for side in sides if side > config.rival_side}
    enlarged = dict.fromkeys(sides, 0)  # pictures that were smaller
    for pair in progress(pairs, desc="study", unit="img"):
        rgb, alpha = read_pair(pair, max_pixels=config.max_pixels)
        small = refine(rival, resize(rgb, config.rival_side)).dense if natives else None
        for side in sides:
            enlarged[side] += max(alpha.shape) < side
            sized_rgb, sized_alpha = resize(rgb, side), resize(alpha, side)
            refined = refine(predictor, sized_rgb)
            recalls[side].add(pair.name, refined, sized_alpha)
            if side in natives:
                mattes = name_mattes(refined, small, config.rival_side)
                natives[side].add(pair.name, mattes, sized_alpha)
                if side == max(natives) and config.crop in (None, pair.name):
                    natives[side].show(pair.name, sized_rgb, sized_alpha, mattes, refined.own)

    content = {
        **provenance("tools.study_refinement", sys.argv[1:]),
        **versions(predictor.device),
        "checkpoint": str(checkpoint),
        "rival": str(config.rival or checkpoint),
        "routing": asdict(predictor.routing),
        "images": [pair.name for pair in pairs],
        "enlarged": enlarged,
        "recall": {side: recall.summary(REMOVED) for side, recall in recalls.items()},
        "thresholds": THRESHOLDS,
        "curves": {side: recall.curves() for side, recall in recalls.items()},
        "native": [row for native in natives.values() for row in native.means()],
        "native_per_image": {side: native.rows for side, native in natives.items()},
    }
    tell(content)
    part = natives[max(natives)].part if natives else None
    title = f"{len(pairs)} pictures of {config.dataset} {config.split}; {checkpoint.parent.name}/{checkpoint.name}"
    print("written: " + ", ".join(str(path) for path in write(config.out, content, recalls, part, title)))
    return 0


def choose_pairs(config: RefinementStudyConfig) -> list[Pair]:
    """The pictures of the study."""
    pairs = find_pairs(config.data_root, config.dataset, config.split)
    pairs = evenly_spaced(pairs, config.images or len(pairs))
    names = [pair.name for pair in pairs]
    if config.crop is not None and config.crop not in names:
        raise UserError(f"--crop {config.crop}: not among the {len(names)} pictures; name one of {shorten(names)}")
    if config.crop is not None and max(config.long_sides) <= config.rival_side:
        raise UserError(f"--crop {config.crop}: nothing to show; give one of --long-sides above {config.rival_side}")
    return pairs


def resize(picture: np.ndarray, long_side: int) -> np.ndarray:
    """A picture, uint8 (H, W, 3), or an alpha, float32 (H, W) in [0, 1], with its longer side of `long_side` px."""
    longest = max(picture.shape[:2])
    height, width = (max(1, round(side * long_side / longest)) for side in picture.shape[:2])
    return shrink(picture, (height, width)) if long_side <= longest else enlarge_cubic(picture, (height, width))


def enlarge_cubic(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture or an alpha at a larger size: bicubic, cut to its range."""
    larger = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_CUBIC)
    return larger if larger.dtype == np.uint8 else larger.clip(0, 1)


def name_mattes(refined: Refined, small: np.ndarray, rival_side: int) -> dict[str, np.ndarray]:
    """The ways to a large alpha, in the order of the tables."""
    return {
        "coarse, enlarged": refined.coarse,
        # Of bilinear, bicubic and Lanczos enlargement of alpha, and of logits, the one with the lowest SAD and Grad.
        f"refined at {rival_side}, enlarged": enlarge_cubic(small, refined.coarse.shape),
        "refined natively, routed": refined.routed,
        "refined natively, dense": refined.dense,
    }


class Native:
    """Collects the scores at one long side, and the square that shows the difference best.

    Args:
        long_side: In px.
    """

    def __init__(self, long_side: int):
        self.long_side = long_side
        self.rows: dict[str, list[dict[str, Any]]] = {}  # of each method, one a picture
        self.part: Part | None = None

    def add(self, name: str, mattes: Mapping[str, np.ndarray], alpha: np.ndarray) -> None:
        """Scores the mattes of a picture, in the whole of it and in bands around the true edge."""
        distance_px = edge_distance(alpha)
        regions = {"": None, **{f"_band{radius}": distance_px <= radius for radius in BAND_RADII_PX}}
        for method, matte in mattes.items():
            values = matting(matte, alpha, ["SAD", "Grad"], regions)
            self.rows.setdefault(method, []).append({"name": name, **{key: values[key] for key in SCORES}})

    def show(
        self,
        name: str,
        rgb: np.ndarray,
        alpha: np.ndarray,
        mattes: Mapping[str, np.ndarray],
        patches: Sequence[Patches],
    ) -> None:
        """Takes the square where routed native refinement is furthest ahead of the rival, if none was further.

        Only pixels near the true edge count: it is fine detail that is to be seen.
        """
        shown = dict(list(mattes.items())[:3])
        _, rival, routed = shown.values()
        side_px = min(CROP_PX, *alpha.shape)
        near_edge = edge_distance(alpha) <= max(BAND_RADII_PX)
        window = best_window(refinement_gain(rival, routed, alpha) * near_edge, side_px)
        if self.part is None or window.total > self.part.advantage_px:
            self.part = cut_part(name, rgb, alpha, shown, patches, window, side_px)

    def means(self) -> list[dict[str, Any]]:
        """A row a method: the means over the pictures."""
        return [{"long_side": self.long_side, "method": m, **mean_row(rows)} for m, rows in self.rows.items()]


def tell(content: dict[str, Any]) -> None:
    """Prints the tables."""
    for side, count in content["enlarged"].items():
        if count:
            print(f"note: {count} of {len(content['images'])} pictures are smaller than {side} px and were enlarged")
    recall = [
        {
            "long side": side,
            **{f"SAD {stage}": f"{value:.3f}" for stage, value in summary["SAD"].items()},
            "own: removed": percent(summary["own"]["removed"]),
            "own: work": percent(summary["own"]["work"]),
            **{f"{REMOVED:.0%}: {key}": percent(value) for key, value in summary["work"].items()},
            "router, gross": percent(summary["gross_work"]["router"]),
            "router, mean": percent(summary["mean_work"]["router"]),
            "router, no halos": percent(summary["bare_work"]["router"]),
            "goal": percent(GOALS[side].work if side in GOALS else None),
        }
        for side, summary in content["recall"].items()
    ]
    print(
        "\nRecall. own: at the checkpoint's own routing, removed error and work as shares of dense refinement's\n"
        f"{REMOVED:.0%}: the work that removes {REMOVED:.0%} of the error that dense refinement removes, by error map\n"
        "router again: gross, without the pixels that refinement makes worse; mean, over the images, of the shares in\n"
        "each, without images that refinement makes worse; no halos, as a share of the dense work if it had none"
    )
    print(pd.DataFrame(recall).to_string(index=False))
    if content["native"]:
        native = [
            {"long side": row["long_side"], "method": row["method"]}
            | {heading: f"{row[key]:.3f}" for key, heading in SCORES.items()}
            for row in content["native"]
        ]
        print("\nNative. SAD and Grad, sum / 1000, means over the images; bands are around the true edge")
        print(pd.DataFrame(native).to_string(index=False))


def percent(value: float | None) -> str:
    """A share, or that there is none."""
    return "-" if value is None else f"{value:.1%}"


def write(
    folder: Path, content: dict[str, Any], recalls: Mapping[int, Recall], part: Part | None, title: str
) -> list[Path]:
    """Writes study.json, recall.png and, where there is a native table, native.png and part.png."""
    paths = [folder / name for name in ("study.json", "recall.png", "native.png", "part.png")]
    write_json(paths[0], content)
    curves = {side: recall.curves() for side, recall in recalls.items()}
    own = {side: (summary["own"]["work"], summary["own"]["removed"]) for side, summary in content["recall"].items()}
    save_recall(paths[1], curves, own, GOALS, title)
    if part is None:
        return paths[:2]
    save_native(paths[2], content["native"], SCORES, title)
    save_part(paths[3], part)
    return paths


if __name__ == "__main__":
    run_script(main)
