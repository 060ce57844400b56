"""Trains TSR-Matte: teacher, then student and refiner, with a validation at native resolution after each epoch.

python train.py [PRESET] [--flag value ...]      presets: tsr (default), tsr-tiny, tsr-fast, tsr-large, baseline,
                                                 dilation, locator, demo (minutes on a CPU, embedded data)
python train.py ... --resume                     continues the run in --run-dir
"""

import hashlib
import os
import time
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from config import RUNS, Config, EmbeddedConfig, parse_train
from models import FeatureAlignment, MaskTeacher, PretrainedWeightsError, Routing, TSRMatte
from utils.backgrounds import NewBackgrounds, find_backgrounds, find_foregrounds
from utils.checkpoint import load_checkpoint, load_weights, save_checkpoint
from utils.checks import cache_file, check_dataset, list_dataset, require_usable
from utils.crops import to_crops
from utils.datasets import AlphaDataset, EpochSampler, MattingDataset
from utils.errors import UserError, run_script
from utils.evaluation import evenly_spaced, predictions
from utils.files import write_json
from utils.inference import Predictor, autocast, select_device
from utils.losses import MattingLoss
from utils.metrics import sad
from utils.names import shorten
from utils.optim import count_parameters, learning_rate_factor, parameter_groups, set_learning_rate
from utils.pairs import NotFound, Pair, find_layout
from utils.plots import Preview, save_curves, save_previews
from utils.problems import Problem, write_problems
from utils.progress import progress
from utils.run_folder import RunFolder, Table, refuse_differences, to_json, versions
from utils.scoring import DIFFERENCE_METRICS, Scores, mean_scores, score_image
from utils.synthetic import has_embedded, write_embedded
from utils.teaching import train_teacher
from utils.transforms import EvalTransform, Preprocess, TrainTransform


@dataclass
class Learner:
    """What a step changes, and what a checkpoint therefore keeps."""

    network: TSRMatte
    teacher: MaskTeacher | None
    alignment: FeatureAlignment | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def state(self) -> dict[str, Any]:
        """Everything of a checkpoint that is not a number or a description; the frozen teacher has its own file."""
        return {
            "model": self.network.state_dict(),
            "alignment": {} if self.alignment is None else self.alignment.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Takes over what `state` gave."""
        load_weights(self.network, checkpoint["model"], path)
        if self.alignment is not None:
            load_weights(self.alignment, checkpoint["alignment"], path)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scaler.load_state_dict(checkpoint["scaler"])


def main() -> int:
    config = parse_train()
    cv2.setNumThreads(1)  # pictures are read in parallel; threads of OpenCV's own would compete, and survive no fork
    run, optim = config.run, config.optim
    device = select_device(run.device)
    folder = RunFolder(run.run_dir, resume=run.resume)
    checkpoint = load_checkpoint(folder.last) if run.resume else None
    if checkpoint:
        if "optimizer" not in checkpoint:
            raise UserError(
                f"--resume: {folder.last} is an export without the optimiser's state; it cannot be continued"
            )
        refuse_differences(checkpoint["config"], to_json(asdict(config)), folder.last)
        if checkpoint["epoch"] == optim.epochs:
            print(f"{folder.last}: all {optim.epochs} epochs are done; the best checkpoint is {folder.best}")
            return 0
    train_pairs, val_pairs, problems = find_data(config)
    backgrounds = find_new_backgrounds(config, train_pairs, val_pairs)

    preprocess = Preprocess(image_size=config.data.image_size, keep_aspect=config.data.keep_aspect)
    learner = build_learner(config, folder, device)
    predictor = Predictor(learner.network, preprocess, Routing(**asdict(config.routing)), device, run.precision)
    transform = build_transform(config, learner.network)
    reading = {"seed": run.seed, "max_pixels": config.data.max_pixels}
    loader = make_loader(config, MattingDataset(train_pairs, transform, backgrounds=backgrounds, **reading), device)
    refined_weight = config.loss.refined_weight if config.model.refiner else 0.0
    matting_loss = MattingLoss(**asdict(replace(config.loss, refined_weight=refined_weight)))
    steps_per_epoch = -(-len(loader) // optim.accumulation_steps)

    first_epoch, step, best_sad, data = 0, 0, float("inf"), fingerprint(train_pairs, val_pairs, backgrounds)
    if checkpoint:
        if checkpoint["data"] != data:
            where = " and ".join(str(each) for each in (config.data.data_root, config.composition.backgrounds) if each)
            raise UserError(f"--resume: {folder.last} was trained on other pictures than {where} holds")
        learner.restore(checkpoint, folder.last)
        first_epoch, step, best_sad = (checkpoint[key] for key in ("epoch", "step", "best_sad"))

    def save(path: Path, epochs_done: int) -> None:
        numbers = {"epoch": epochs_done, "step": step, "best_sad": best_sad, "data": data}
        save_checkpoint(path, {**self_description(config, preprocess), **learner.state(), **numbers})

    if not checkpoint:
        write_json(folder.path / "config.json", {"config": to_json(asdict(config)), "versions": versions(device)})
        write_problems(folder.path / "problems.csv", problems)
        save(folder.last, 0)  # from here on, --resume continues
    log = Table(folder.path / "log.csv", keep_up_to=step)
    validation_log = Table(folder.path / "validation.csv", keep_up_to=step)
    announce(config, device, learner, len(train_pairs), len(val_pairs), steps_per_epoch)
    if learner.teacher is not None and not folder.teacher.exists():
        fit_teacher(config, learner.teacher, train_pairs, val_pairs, folder, device)

    for epoch in range(first_epoch, optim.epochs):
        # Stochastic depth draws from this generator: a function of the epoch, so that a resumed epoch repeats it.
        torch.manual_seed(run.seed * 1_000_003 + epoch)
        loader.sampler.set_epoch(epoch)
        total_steps = steps_per_epoch * optim.epochs
        step = train_one_epoch(
            config, learner, preprocess, loader, matting_loss, log, epoch=epoch, step=step, total_steps=total_steps
        )
        if (epoch + 1) % run.validate_every == 0 or epoch + 1 == optim.epochs:
            scores, coarse_sad, previews = validate(config, predictor, val_pairs)
            val_sad = scores.mean["SAD"]
            validation_log.append({"epoch": epoch + 1, "step": step, **scores.mean, "coarse_SAD": coarse_sad})
            tqdm.write(
                f"epoch {epoch + 1}: validation SAD {val_sad:.4f} (coarse {coarse_sad:.4f}, best constant alpha "
                f"{scores.constant_sad:.4f}), MSE {scores.mean['MSE']:.5f}, MAD {scores.mean['MAD']:.5f}"
            )
            draw(folder, epoch + 1, scores, previews)
            if val_sad < best_sad:  # never true for a NaN
                best_sad = val_sad
                save(folder.best, epoch + 1)
        save(folder.last, epoch + 1)
    print(f"best validation SAD {best_sad:.4f}: {folder.best}")
    print(f"curves {folder.path / 'curves.png'}, previews {folder.path / 'previews'}")
    return 0


def train_one_epoch(
    config: Config,
    learner: Learner,
    preprocess: Preprocess,
    loader: DataLoader,
    matting_loss: MattingLoss,
    log: Table,
    *,
    epoch: int,
    step: int,
    total_steps: int,
) -> int:
    """One pass over the training set; returns the number of optimiser steps done so far in the run."""
    optim, network, teacher = config.optim, learner.network, learner.teacher
    device = next(network.parameters()).device
    parameters = [p for group in learner.optimizer.param_groups for p in group["params"]]
    network.train()
    images = len(loader.dataset)
    bar = progress(total=images, desc=f"epoch {epoch + 1}/{optim.epochs}", unit="img")
    batches = iter(loader)
    done, meter, gradients, started = 0, [], [], time.perf_counter()
    while done < images:
        factor = learning_rate_factor(step, warmup_steps=optim.warmup_steps, total_steps=total_steps)
        set_learning_rate(learner.optimizer, factor)
        group_images = min(optim.batch_size * optim.accumulation_steps, images - done)
        names: list[str] = []
        for batch in islice(batches, optim.accumulation_steps):  # the last group may be smaller, and is stepped too
            rgb, alpha = (t.to(device, non_blocking=True) for t in (batch.rgb, batch.alpha))
            image = preprocess.normalise(rgb)
            crops, crop_alpha = to_crops(batch.crops, preprocess, device)
            aligned = taught = ()
            with autocast(device, config.run.precision):
                output = network(image, crops)
                if teacher is not None:
                    aligned = learner.alignment(output.features)
                    with torch.no_grad():
                        taught = teacher(alpha)
            terms = matting_loss(output, alpha, crops, crop_alpha, aligned, taught)
            # Each image weighs the same in the step, whatever the size of its batch.
            learner.scaler.scale(terms["total"] * (len(batch.name) / group_images)).backward()
            meter.append((batch.name, {name: term.detach() for name, term in terms.items()}))
            names += batch.name
        learner.scaler.unscale_(learner.optimizer)
        gradient_norm = nn.utils.clip_grad_norm_(parameters, optim.clip_norm)
        if not learner.scaler.is_enabled():  # with it, an overflow is expected now and then, and the step left out
            gradients.append((names, {"gradient_norm": gradient_norm.detach()}))
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
        learner.optimizer.zero_grad(set_to_none=True)
        step += 1
        done += group_images
        bar.update(group_images)
        if step % config.run.log_every == 0 or done == images:  # the host waits for the device only here
            means = mean_terms(meter) | mean_terms(gradients)
            seconds, started = time.perf_counter() - started, time.perf_counter()
            row = {
                "step": step,
                "epoch": epoch + 1,
                "learning_rate": optim.learning_rate * factor,
                "images_per_second": round(sum(len(names) for names, _ in meter) / seconds, 2),
            }
            log.append({**row, **means})
            bar.set_postfix(loss=f"{means['total']:.4f}", lr=f"{row['learning_rate']:.2e}")
            meter, gradients = [], []
    bar.close()
    return step


def mean_terms(meter: list[tuple[list[str], dict[str, torch.Tensor]]]) -> dict[str, float]:
    """Means of the loss terms over some batches.

    Raises:
        UserError: A value is not finite; the message names the files of the first such batch.
    """
    if not meter:
        return {}
    names = list(meter[0][1])
    values = torch.stack([torch.stack([terms[name] for name in names]) for _, terms in meter]).cpu()
    for (files, _), row in zip(meter, values, strict=True):
        if not torch.isfinite(row).all():
            bad = ", ".join(name for name, value in zip(names, row, strict=True) if not torch.isfinite(value))
            raise UserError(
                f"training is not finite ({bad}) in the batch of {', '.join(files)}: look at these files, "
                "lower --learning-rate or use --precision fp32"
            )
    return dict(zip(names, values.mean(0).tolist(), strict=True))


@torch.inference_mode()
def validate(config: Config, predictor: Predictor, pairs: list[Pair]) -> tuple[Scores, float, list[Preview]]:
    """Scores at native resolution, with eval.py's code; also the coarse stage's SAD, and some pictures."""
    predictor.network.eval()
    scores, coarse_sad, previews = [], [], []
    shown = {pair.name for pair in evenly_spaced(pairs, config.run.previews)}
    read = predictions(
        predictor, pairs, num_workers=config.run.num_workers, max_pixels=config.data.max_pixels, title="validate"
    )
    for item in read:
        scores.append(score_image(item.name, item.pred_alpha(), item.alpha, metrics=DIFFERENCE_METRICS))
        coarse_sad.append(sad(item.pred_alpha("coarse"), item.alpha))
        if item.name in shown:
            previews.append(item.preview())
    return mean_scores(scores), float(np.mean(coarse_sad)), previews


# -------------------------------------------------------------------------------------------- before the first step


def find_data(config: Config) -> tuple[list[Pair], list[Pair], list[Problem]]:
    """Training and validation pairs, all files checked; the embedded data is made if it is not there.

    Returns:
        The two, and what is wrong with files that are left out or doubtful.
    """
    data, layout = config.data, find_layout(config.data.dataset)
    if layout.name == "Embedded" and not has_embedded(data.data_root):
        made = EmbeddedConfig()
        write_embedded(data.data_root, train=made.train, val=made.val, long_side=made.long_side, seed=made.seed)
    held_out = "val"
    try:
        dataset = list_dataset(data.data_root, layout.name, ("train", held_out))
    except NotFound as error:
        if layout.name != "Custom":  # the others' layouts say themselves what to validate on
            raise
        held_out = "test"  # a composed set, say
        try:
            dataset = list_dataset(data.data_root, layout.name, ("train", held_out))
        except NotFound:
            raise error from None
        print(f"note on {data.data_root}: no val/, so a best checkpoint is chosen on test/")
    if layout.note:
        print(f"note on {layout.name}: {layout.note}")
    cache = cache_file(RUNS / ".data_checks", dataset.root)
    check = check_dataset(dataset, max_pixels=data.max_pixels, cache=cache)
    pairs = require_usable(check, data.on_bad)
    if check.problems:
        print(check.summary())
    return pairs["train"], pairs[held_out], check.problems


def find_new_backgrounds(config: Config, train_pairs: list[Pair], val_pairs: list[Pair]) -> NewBackgrounds | None:
    """What composes new pictures, if --backgrounds asks for it; all files found and checked."""
    options, max_pixels = config.composition, config.data.max_pixels
    if options.backgrounds is None:
        return None
    backgrounds = find_backgrounds(options.backgrounds, max_pixels=max_pixels)
    taken = {os.path.realpath(pair.image) for pair in (*train_pairs, *val_pairs)}
    if shared := [path.name for path in backgrounds if os.path.realpath(path) in taken]:
        raise UserError(
            f"--backgrounds {options.backgrounds}: {len(shared)} are images of the dataset ({shorten(shared)}), whose "
            f"subjects would be taken for background; give photographs without a subject"
        )
    foregrounds: dict[str, Path] = {}
    if options.foregrounds is not None:
        foregrounds = find_foregrounds(options.foregrounds, train_pairs, max_pixels=max_pixels)
    files = {"backgrounds": backgrounds, "foregrounds": foregrounds}
    return NewBackgrounds(**{**asdict(options), **files}, max_pixels=max_pixels)


def fingerprint(train_pairs: list[Pair], val_pairs: list[Pair], backgrounds: NewBackgrounds | None) -> str:
    """The names of all pictures as a short text: what a resume must find again, wherever it lies."""
    names = [pair.name for pair in (*train_pairs, *val_pairs)]
    if backgrounds is not None:
        names += [path.name for path in backgrounds.backgrounds] + sorted(backgrounds.foregrounds)
    digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()
    return f"{len(train_pairs)} + {len(val_pairs)} {digest[:16]}"


def build_learner(config: Config, folder: RunFolder, device: torch.device) -> Learner:
    """Networks and optimiser at step 0."""
    run, optim = config.run, config.optim
    torch.manual_seed(run.seed)
    network = build_network(config, resuming=run.resume).to(device)
    teacher = build_teacher(config, folder, device)
    alignment = None
    if teacher is not None:
        alignment = FeatureAlignment(network.student.feature_channels, teacher.channels).to(device)
    modules = {"backbone": network.student.encoder, "network": network, "alignment": alignment}
    rates = {"backbone": optim.backbone_learning_rate, "network": optim.learning_rate, "alignment": optim.learning_rate}
    optimizer = torch.optim.AdamW(parameter_groups(modules, rates, optim.weight_decay))
    scaler = torch.amp.GradScaler(device.type, enabled=run.precision == "fp16")
    return Learner(network, teacher, alignment, optimizer, scaler)


def build_network(config: Config, *, resuming: bool) -> TSRMatte:
    """The network, with ImageNet weights unless a checkpoint will replace them anyway."""
    arguments = asdict(config.model)
    if resuming:
        arguments |= {"pretrained": False, "backbone_weights": None}
    try:
        return TSRMatte(**arguments)
    except PretrainedWeightsError as error:
        raise UserError(f"{error}; give --backbone-weights FILE, or train from scratch with --no-pretrained") from error


def build_transform(config: Config, network: TSRMatte) -> TrainTransform:
    """The augmentation; with squares at native resolution where there is a refiner to be trained on them."""
    options = {**asdict(config.augment), "dilate_px": config.data.dilate_px}
    options |= {"native_crops": 0} if network.refiner is None else {"halo_px": network.refiner.halo_px}
    return TrainTransform(config.data.image_size, **options)


def make_loader(config: Config, dataset: MattingDataset, device: torch.device) -> DataLoader:
    """Batches of training samples; order and augmentation are functions of (seed, epoch, index)."""
    run = config.run
    return DataLoader(
        dataset,
        batch_size=config.optim.batch_size,
        sampler=EpochSampler(len(dataset), seed=run.seed),
        num_workers=run.num_workers,
        persistent_workers=run.num_workers > 0,
        pin_memory=device.type == "cuda",
    )


def build_teacher(config: Config, folder: RunFolder, device: torch.device) -> MaskTeacher | None:
    """The frozen teacher: of this or another run, from ImageNet (swin), or yet to be trained."""
    kind, model = config.teacher.teacher, config.model
    if kind == "none":
        return None
    torch.manual_seed(config.run.seed + 1)  # the same teacher, however the network before it was made
    source = folder.teacher if folder.teacher.exists() else config.teacher.teacher_checkpoint
    if source is not None:
        saved = load_checkpoint(source, "--teacher-checkpoint")
        if "teacher" not in saved:
            raise UserError(f"{source}: not a teacher; give --teacher-checkpoint the teacher.pth of a run")
        if saved["teacher"]["kind"] != kind:
            raise UserError(
                f"{source}: a teacher of kind {saved['teacher']['kind']}, which contradicts --teacher {kind}"
            )
        teacher = MaskTeacher(**saved["teacher"])
        load_weights(teacher, saved["model"], source)
        if source != folder.teacher:
            save_checkpoint(folder.teacher, saved)
    else:
        weights = {"pretrained": model.pretrained, "backbone_weights": model.backbone_weights} if kind == "swin" else {}
        try:
            teacher = MaskTeacher(**teacher_arguments(config), **weights)
        except PretrainedWeightsError as error:
            raise UserError(f"{error}; give --backbone-weights FILE, or --teacher cnn") from error
        if weights.get("pretrained"):  # it has learnt to see already
            save_checkpoint(folder.teacher, {"teacher": teacher_arguments(config), "model": teacher.state_dict()})
    return teacher.eval().requires_grad_(False).to(device)


def teacher_arguments(config: Config) -> dict[str, Any]:
    """What MaskTeacher is rebuilt from."""
    return {
        "kind": config.teacher.teacher,
        "width": config.teacher.teacher_width,
        "backbone": config.model.backbone,
        "window_size": config.model.window_size,
    }


def fit_teacher(
    config: Config,
    teacher: MaskTeacher,
    train_pairs: list[Pair],
    val_pairs: list[Pair],
    folder: RunFolder,
    device: torch.device,
) -> None:
    """Trains the teacher on the true mattes (never dilated ones), freezes it and keeps it in the run folder."""
    torch.manual_seed(config.run.seed + 2)
    augmented = TrainTransform(config.data.image_size, **asdict(config.augment))
    reading = {"seed": config.run.seed, "max_pixels": config.data.max_pixels}
    table = folder.path / "teacher.csv"
    table.unlink(missing_ok=True)  # of a teacher that was interrupted
    train_teacher(
        teacher.requires_grad_(True),
        make_loader(config, AlphaDataset(train_pairs, augmented, **reading), device),
        make_loader(config, AlphaDataset(val_pairs, EvalTransform(config.data.image_size), **reading), device),
        width=config.teacher.teacher_width,
        epochs=config.teacher.teacher_epochs,
        learning_rate=config.teacher.teacher_learning_rate,
        warmup_steps=config.teacher.teacher_warmup_steps,
        clip_norm=config.optim.clip_norm,
        device=device,
        precision=config.run.precision,
        log=Table(table).append,
    )
    teacher.eval().requires_grad_(False)
    save_checkpoint(folder.teacher, {"teacher": teacher_arguments(config), "model": teacher.state_dict()})


def self_description(config: Config, preprocess: Preprocess) -> dict[str, Any]:
    """What a checkpoint needs to rebuild the network and feed it, as JSON types."""
    network = {k: v for k, v in asdict(config.model).items() if k not in {"pretrained", "backbone_weights"}}
    return to_json(
        {
            "config": asdict(config),
            "network": network,
            "preprocess": asdict(preprocess),
            "routing": asdict(config.routing),
        }
    )


def announce(
    config: Config, device: torch.device, learner: Learner, train_images: int, val_images: int, steps_per_epoch: int
) -> None:
    """Prints, once, what is going to happen."""
    data, model, optim, run = config.data, config.model, config.optim, config.run
    network, teacher = learner.network, learner.teacher
    encoder, student = count_parameters(network.student.encoder), count_parameters(network.student)
    batch = optim.batch_size * optim.accumulation_steps
    for line in (
        f"preset {config.preset}: {data.dataset} at {data.data_root}, {train_images} training and {val_images} "
        f"validation images, {data.image_size} px",
        f"parameters: encoder ({model.backbone}) {encoder:,}, decoder {student - encoder:,}, refiner "
        f"{count_parameters(network.refiner):,}; teacher ({config.teacher.teacher}) {count_parameters(teacher):,}",
        f"effective batch {optim.batch_size} x {optim.accumulation_steps} = {batch}, learning rate "
        f"{optim.learning_rate:g} (encoder {optim.backbone_learning_rate:g}), {optim.epochs} epochs of "
        f"{steps_per_epoch} steps",
        f"device {device}, {run.precision}; run folder {run.run_dir}",
    ):
        print(line)


def draw(folder: RunFolder, epoch: int, scores: Scores, previews: list[Preview]) -> None:
    """Curves so far, and the pictures of this validation."""
    tables = (pd.read_csv(folder.path / name) for name in ("log.csv", "validation.csv"))
    save_curves(folder.path / "curves.png", *tables, scores.constant_sad)
    if previews:
        title = f"validation after epoch {epoch}: SAD {scores.mean['SAD']:.3f} over {len(scores.per_image)} images"
        save_previews(folder.path / "previews" / f"epoch_{epoch:03d}.png", previews, title)


if __name__ == "__main__":
    run_script(main)
