"""What a refiner may cost: several of them, trained on the same crops over one coarse stage, then compared.

python -m tools.study_cost --checkpoint P --data-root D [--candidates 64x2 32x1 ...] [--steps 1500] [--out DIR]

The coarse stage of the checkpoint is frozen. Each step trains every candidate (channels x blocks) on the same squares
at native resolution, and in the end each refines every held-out picture densely at its own resolution. So the
candidates differ in nothing but their design.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count, islice

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from config import AugmentConfig, CostStudyConfig, LossConfig, parse_cli
from models import MattingOutput, Refiner, TSRMatte
from models.layers import crop_border
from models.patches import enlarge, sample_crops
from models.routing import choose_patches, refine_patches
from utils.crops import to_crops
from utils.datasets import MattingDataset, Sample
from utils.errors import UserError, run_script
from utils.files import require_writable, write_json
from utils.inference import Predictor, load_model, to_alpha
from utils.losses import MattingLoss
from utils.optim import count_parameters, learning_rate_factor, parameter_groups, set_learning_rate
from utils.pairs import Pair, find_pairs, read_pair
from utils.progress import progress
from utils.run_folder import provenance, versions
from utils.sampler import StepSampler
from utils.scoring import mean_scores, score_image
from utils.transforms import TrainTransform, to_tensor

SIDE_PX = 1024  # of the square whose dense refinement the arithmetic is given for
BATCH = 8  # pictures a step
WARMUP_STEPS = 50
COLUMNS = {"SAD": "SAD", "Grad": "Grad", "band3_SAD": "SAD in 3 px", "band10_SAD": "10 px", "band30_SAD": "30 px"}


def main() -> int:
    config = parse_cli(CostStudyConfig, prog="python -m tools.study_cost", description=__doc__)
    if config.out is not None:
        require_writable(config.out, "--out")
    train, val = (find_pairs(config.data_root, config.dataset, split) for split in ("train", "val"))
    if len(train) < BATCH:
        raise UserError(
            f"--data-root {config.data_root}: {len(train)} of the {BATCH} training pictures of a step: add some"
        )
    predictor = load_model(config.checkpoint, config.device)
    if not isinstance(predictor.network, TSRMatte):
        raise UserError(f"{config.checkpoint}: onnxruntime's; refiners are trained on what PyTorch runs: give the .pth")
    predictor.network.requires_grad_(False)
    candidates = build(config.candidates, predictor.device)
    train_together(candidates, predictor, train, config)
    means = score(candidates, predictor, val[: config.images])
    rows = []
    for name, refiner in [("none", None), *candidates.items()]:
        flop = 0 if refiner is None else 2 * refiner.work(predictor.routing.largest_px)
        row = {
            "channels x blocks": name,
            "halo px": 0 if refiner is None else refiner.halo_px,
            "parameters": count_parameters(refiner),
            f"GFLOP at {SIDE_PX}": round(flop * (SIDE_PX / predictor.routing.largest_px) ** 2 / 1e9, 1),
        }
        rows.append({**row, **{key: round(value, 4) for key, value in means[name].items()}})
    about = f"{len(val[: config.images])} held-out pictures, {config.steps} steps of {BATCH}"
    print(pd.DataFrame(rows).to_string(index=False))
    print(f"{about}; GFLOP: dense, in tiles of {predictor.routing.largest_px} px with their halo")
    if config.out is not None:
        record = {
            **provenance("tools.study_cost", sys.argv[1:]),
            "about": about,
            **versions(predictor.device),
            "rows": rows,
        }
        write_json(config.out / "study_cost.json", record)
        print(f"written: {config.out / 'study_cost.json'}")
    return 0


def build(candidates: tuple[str, ...], device: torch.device) -> dict[str, Refiner]:
    """Refiners by name, "64x2" being 64 channels and 2 blocks."""
    built = {}
    for name in candidates:
        torch.manual_seed(0)
        width, blocks = map(int, name.split("x"))
        built[name] = Refiner(width, blocks).to(device)
    return built


def train_together(
    candidates: dict[str, Refiner], predictor: Predictor, pairs: list[Pair], config: CostStudyConfig
) -> None:
    """Trains every candidate on the same crops, each step."""
    halo_px = max(refiner.halo_px for refiner in candidates.values())
    options = asdict(replace(AugmentConfig(), native_px=config.crop_px, blur_probability=0.0))
    transform = TrainTransform(predictor.preprocess.image_size, halo_px=halo_px, **options)
    dataset = MattingDataset(pairs, transform)
    weights = asdict(LossConfig()) | {"coarse_weight": 0.0, "error_weight": 0.0, "alignment_weight": 0.0}
    matting_loss = MattingLoss(**weights)
    optimizers = {
        name: torch.optim.AdamW(parameter_groups({name: refiner}, {name: config.learning_rate}, weight_decay=0.0))
        for name, refiner in candidates.items()
    }
    for step, batch in enumerate(progress(islice(batches(dataset), config.steps), total=config.steps, desc="train")):
        crops, truth = to_crops(batch.crops, predictor.preprocess, predictor.device)
        with torch.no_grad():
            coarse = predictor.network.student(predictor.preprocess.normalise(batch.rgb.to(predictor.device)))[0]
            context = sample_crops(coarse, crops, config.crop_px, halo_px)
        for name, refiner in candidates.items():
            spare = halo_px - refiner.halo_px
            logits = crop_border(context, spare)
            residual = refiner(crop_border(crops.image, spare), logits)
            refined = crop_border(logits, refiner.halo_px) + residual
            output = MattingOutput(coarse, coarse, refined, ())
            optimizer = optimizers[name]
            factor = learning_rate_factor(step, warmup_steps=WARMUP_STEPS, total_steps=config.steps)
            set_learning_rate(optimizer, factor)
            matting_loss(output, batch.alpha, crops, truth)["total"].backward()
            nn.utils.clip_grad_norm_(refiner.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def batches(dataset: MattingDataset) -> Iterator[Sample]:
    """Batches without end, epoch after epoch."""
    sampler = StepSampler(len(dataset), batch_size=BATCH)
    loader = DataLoader(dataset, batch_sampler=sampler)
    for epoch in count():
        sampler.seek(epoch)
        yield from islice(loader, len(dataset) // BATCH)  # whole ones


@torch.inference_mode()
def score(candidates: dict[str, Refiner], predictor: Predictor, pairs: list[Pair]) -> dict[str, dict[str, float]]:
    """Means over the pictures, by candidate; "none" is the coarse stage alone."""
    rows: dict[str, list] = {name: [] for name in ("none", *candidates)}
    everything, preprocess = predictor.routing.everything(), predictor.preprocess
    for pair in progress(pairs, total=len(pairs), desc="score", unit="img"):
        rgb, alpha = read_pair(pair)
        pixels = to_tensor(rgb).to(predictor.device)
        coarse, error, _ = predictor.network.student(preprocess.coarse(pixels)[None])
        found = {"none": enlarge(coarse, alpha.shape)}
        for name, refiner in candidates.items():
            patches = choose_patches(error, alpha.shape, everything, refiner.work)
            found[name] = refine_patches(
                refiner, pixels[None], preprocess.normalise, coarse, patches, everything.batch_px
            )
        for name, logits in found.items():
            rows[name].append(score_image(pair.name, to_alpha(logits), alpha, metrics=("SAD", "Grad", "band")))
    means = {name: mean_scores(scores).mean for name, scores in rows.items()}
    return {name: {heading: mean[column] for column, heading in COLUMNS.items()} for name, mean in means.items()}


if __name__ == "__main__":
    run_script(main)
