"""Where the time of a training sample goes, and how many samples a second loader processes give.

python -m tools.benchmark_loader                              photographs made for it, at 12 MP and at 1536 px
python -m tools.benchmark_loader --data-root D                your own
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from config import AugmentConfig, CompositionConfig, LoaderBenchmarkConfig, ModelConfig, parse_cli
from models import Refiner
from utils.augment import mean_grey
from utils.backgrounds import NewBackgrounds
from utils.datasets import MattingDataset
from utils.encoding import write_image
from utils.errors import run_script
from utils.images import read_alpha, read_rgb
from utils.pairs import Pair, find_pairs
from utils.seeds import seeded_rng
from utils.synthetic import composite
from utils.transforms import TrainTransform

PICTURES = 4  # made; reading one again costs the same: decoding takes the time, not the disk
BATCH = 8


def main() -> int:
    config = parse_cli(LoaderBenchmarkConfig, prog="python -m tools.benchmark_loader", description=__doc__)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        if config.data_root is not None:
            sources = {str(config.data_root): find_pairs(config.data_root, config.dataset)}
        else:
            sources = {f"{side} x {side * 3 // 4}": write_photographs(Path(folder), side) for side in config.long_sides}
        columns = [measured(config, pairs) for pairs in sources.values()]
    print(f"samples of {config.image_size} px, ms on one core, mean of {config.samples}")
    print("".join([" " * 34, *(f"{name:>16}" for name in sources)]))
    for name in columns[0]:
        print("".join([f"{name:<34}", *(f"{column[name]:16.1f}" for column in columns)]))
    return 0


def write_photographs(folder: Path, long_side: int) -> list[Pair]:
    """Photographs as cameras give them: JPEGs of quality 92 with some noise, alphas as PNG."""
    root, size = folder / str(long_side), (long_side, long_side * 3 // 4)
    for index in range(PICTURES):
        drawn = composite(0, index, height=size[1] // 4, width=size[0] // 4)
        noise = np.random.default_rng(index).normal(0, 4, (size[1], size[0], 3))
        rgb = np.clip(cv2.resize(drawn.rgb, size, interpolation=cv2.INTER_CUBIC) + noise, 0, 255).astype(np.uint8)
        write_image(root / f"train/gt/{index}.png", cv2.resize(drawn.alpha, size, interpolation=cv2.INTER_CUBIC))
        (root / "train/im").mkdir(exist_ok=True)
        Image.fromarray(rgb).save(root / f"train/im/{index}.jpg", quality=92)
    return find_pairs(root)


def measured(config: LoaderBenchmarkConfig, pairs: Sequence[Pair]) -> dict[str, float]:
    """What to print of one source of pairs, in the order of the rows."""
    chosen = [pairs[index % len(pairs)] for index in range(config.samples)]
    transform = train_transform(config)
    plain = MattingDataset(pairs, transform)
    mixed, always = (
        MattingDataset(pairs, transform, backgrounds=new_backgrounds(pairs, probability))
        for probability in (CompositionConfig().background_probability, 1.0)
    )
    batch = [plain[0]] * BATCH

    def each(function: Callable[[int], object]) -> float:
        return milliseconds(function, config.samples)

    rows = {
        "read the image": each(lambda i: read_rgb(chosen[i].image)),
        "read the alpha": each(lambda i: read_alpha(chosen[i].alpha)),
        **augmentation(config, transform, pairs[:PICTURES]),
        "collate, of each image": each(lambda i: default_collate(batch)) / BATCH,
        "sample, photograph": each(lambda i: plain[i, i % len(pairs)]),
        "sample, composite": each(lambda i: always[i, i % len(pairs)]),
    }
    for workers in config.workers:
        rows[f"images/s, {workers} workers"] = throughput(plain, config.samples, workers)
        rows[f"images/s, {workers} workers, half composites"] = throughput(mixed, config.samples, workers)
    return rows


def train_transform(config: LoaderBenchmarkConfig) -> TrainTransform:
    """The default augmentation, with the halo of the default refiner."""
    model = ModelConfig()
    halo_px = Refiner(model.refiner_width, model.refiner_blocks).halo_px
    return TrainTransform(config.image_size, halo_px=halo_px, **asdict(AugmentConfig()))


def new_backgrounds(pairs: Sequence[Pair], probability: float) -> NewBackgrounds:
    """The pairs' own images as backgrounds: their content does not matter here."""
    return NewBackgrounds(
        [pair.image for pair in pairs],
        background_probability=probability,
        extra_subject_probability=CompositionConfig().extra_subject_probability,
    )


def augmentation(config: LoaderBenchmarkConfig, transform: TrainTransform, pairs: Sequence[Pair]) -> dict[str, float]:
    """What becomes of pairs once they are read, step by step."""
    rng = seeded_rng(0)
    photographs = [transform.photograph(read_rgb(pair.image), read_alpha(pair.alpha), rng) for pair in pairs]
    small = [photograph.render(transform.size)[0] for photograph in photographs]
    looks = [transform.look(mean_grey(small[i % len(pairs)][0]), rng) for i in range(config.samples)]

    def each(function: Callable[[int, int], object]) -> float:
        return milliseconds(lambda i: function(i, i % len(pairs)), config.samples)

    return {
        "crop and resize image and alpha": each(lambda i, k: photographs[k].render(transform.size)),
        "blur, colour, noise, JPEG": each(lambda i, k: looks[i].apply(*small[k], 1.0, rng)),
        "squares at native resolution": each(lambda i, k: transform.crops(photographs[k], small[k][1], looks[i], rng)),
    }


def milliseconds(function: Callable[[int], object], calls: int) -> float:
    """Mean time of the calls function(0), function(1), ... after one that is not counted."""
    function(0)
    begun = time.perf_counter()
    for index in range(calls):
        function(index)
    return (time.perf_counter() - begun) / calls * 1000


def throughput(dataset: MattingDataset, samples: int, workers: int) -> float:
    """Samples a second of a loader, once its queue is full, and it stays full to the end."""
    queued = 2 * workers  # of batches, by default
    keys = [divmod(index, len(dataset)) for index in range(samples + 2 * queued)]
    batches = iter(DataLoader(dataset, sampler=keys, num_workers=workers))
    for _ in range(queued):
        next(batches)
    begun = time.perf_counter()
    for _ in range(samples):
        next(batches)
    return samples / (time.perf_counter() - begun)


if __name__ == "__main__":
    run_script(main)
