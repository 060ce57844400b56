"""Draws what a checkpoint makes of some pictures: image, truth, coarse, refined squares, refined, error, cut-out.

python -m tools.preview --checkpoint P --dataset custom --data-root D --split val [--show worst] --output preview.png
"""

from heapq import nlargest
from operator import itemgetter

from config import RUNS, PreviewConfig, parse_cli
from utils.errors import run_script
from utils.evaluation import predictions
from utils.files import require_writable
from utils.inference import load_model, newest_best
from utils.metrics import mad
from utils.pairs import evenly_spaced, find_pairs
from utils.plots import save_previews


def main() -> int:
    config = parse_cli(PreviewConfig, prog="python -m tools.preview", description=__doc__)
    pairs = find_pairs(config.data_root, config.dataset, config.split)
    if config.show == "even":
        pairs = evenly_spaced(pairs, config.images)
    checkpoint = config.checkpoint or newest_best(RUNS)
    predictor = load_model(checkpoint, config.device)
    require_writable(config.output.parent, "--output")
    read = predictions(predictor, pairs, num_workers=0, max_pixels=config.max_pixels, title="preview")
    if config.show == "even":
        previews = [item.preview() for item in read]
    else:
        by_error = ((mad(item.pred_alpha(), item.alpha), item.preview()) for item in read)
        previews = [preview for _, preview in nlargest(config.images, by_error, key=itemgetter(0))]
    save_previews(config.output, previews, f"{checkpoint}: {config.dataset} {config.split}")
    print(config.output)
    return 0


if __name__ == "__main__":
    run_script(main)
