"""Scores mattes at the truth's own resolution: a checkpoint's on benchmarks, or anybody's in a folder.

python eval.py --checkpoint P --data-root D --benchmarks DIS-TE1 HRS10K --out R
python eval.py --predictions DIR --ground-truth DIR --out R
"""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from config import RUNS, EvalConfig, parse_cli
from utils.errors import UserError, run_script
from utils.evaluation import Scorer, Scores, predictions, score_table, write_scores
from utils.files import require_writable
from utils.images import list_images, read_alpha
from utils.inference import load_model, newest_best
from utils.pairs import check_pairs, find_benchmark
from utils.progress import progress


def main() -> int:
    config = parse_cli(EvalConfig, prog="eval.py", description=__doc__)
    scores = score_model(config) if config.predictions is None else score_folder(config)
    write_scores(config.out, scores)
    print(score_table(scores))
    print(f"written: {config.out / 'metrics.json'}, {config.out / 'per_image.csv'}")
    return 0


def score_model(config: EvalConfig) -> dict[str, Scores]:
    """Runs a checkpoint over the benchmarks; all of them are looked for before the first picture is predicted."""
    pairs = {name: find_benchmark(config.data_root, name) for name in config.benchmarks}
    checkpoint = config.checkpoint or newest_best(RUNS)
    predictor = load_model(checkpoint, config.device, config.precision)
    require_writable(config.out, "--out")
    for each in pairs.values():
        check_pairs(each, max_pixels=config.max_pixels)
    print(f"checkpoint {checkpoint} on {predictor.device}, {config.precision}")
    scores = {}
    for name, each in pairs.items():
        scorer = Scorer()
        for item in predictions(
            predictor, each, num_workers=config.num_workers, max_pixels=config.max_pixels, title=name
        ):
            scorer.add(item.name, item.pred_alpha(), item.alpha)
        scores[name] = scorer.result()
    return scores


def score_folder(config: EvalConfig) -> dict[str, Scores]:
    """Scores finished mattes against true ones of the same names."""
    scorer = Scorer()
    for name, pred_alpha, alpha in read_mattes(config):
        scorer.add(name, pred_alpha, alpha)
    return {config.predictions.name or "predictions": scorer.result()}


def read_mattes(config: EvalConfig) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, predicted and true alpha (float32 (H, W) in [0, 1]) of every true matte, in order.

    Raises:
        UserError: A prediction is missing or of another size, or a file cannot be read.
    """
    truths, predicted = by_name(config.ground_truth), by_name(config.predictions)
    if not truths:
        raise UserError(f"--ground-truth {config.ground_truth}: no images there")
    for name in truths:
        if name not in predicted and f"{name}_alpha" in predicted:  # as predict.py names them
            predicted[name] = predicted[f"{name}_alpha"]
    missing = [name for name in truths if name not in predicted]
    if missing:
        raise UserError(
            f"--predictions {config.predictions}: {len(missing)} of {len(truths)} mattes are missing "
            f"({', '.join(missing[:3])}{', ...' * (len(missing) > 3)}); a mean over fewer images is not comparable"
        )
    require_writable(config.out, "--out")
    for name, path in progress(truths.items(), desc="score", unit="img"):
        alpha = read_alpha(path, max_pixels=config.max_pixels)
        pred_alpha = read_alpha(predicted[name], max_pixels=config.max_pixels)
        if alpha.shape != pred_alpha.shape:
            raise UserError(
                f"{predicted[name]} is {pred_alpha.shape[1]}x{pred_alpha.shape[0]}, but its truth is "
                f"{alpha.shape[1]}x{alpha.shape[0]}: scores are taken at the truth's own size"
            )
        yield name, pred_alpha, alpha


def by_name(folder: Path) -> dict[str, Path]:
    """Images below a folder by their path in it without suffix.

    Raises:
        UserError: The folder does not exist, or two images differ by their suffix only.
    """
    found: dict[str, Path] = {}
    for path in list_images(folder, recursive=True):
        name = unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())
        if name in found:
            raise UserError(f"{path} and {found[name]} have the same name; keep one of them")
        found[name] = path
    return found


if __name__ == "__main__":
    run_script(main)
