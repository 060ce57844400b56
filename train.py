"""Trains TSR-Matte: teacher, then student and refiner, with a validation at native resolution after each epoch.

python train.py [PRESET] [--flag value ...]      presets: tsr (default), tsr-tiny, tsr-fast, tsr-large, baseline,
                                                 dilation, locator, demo (minutes on a CPU, embedded data)
python train.py ... --resume                     continues the run in --run-dir where it stopped, exactly
torchrun --nproc-per-node 8 train.py ...         the same on 8 GPUs; on more machines, with torchrun's --nnodes
"""

import math
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from config import RUNS, Config, EmbeddedConfig, parse_train
from models import Crops, FeatureAlignment, MaskTeacher, MattingOutput, PretrainedWeightsError, Routing, TSRMatte
from utils.checkpoint import (
    DamagedCheckpointError,
    checksum,
    describe_error,
    load_checkpoint,
    save_checkpoint,
)
from utils.costs import peak_gb
from utils.crops import to_crops
from utils.datasets import AlphaDataset, MattingDataset, Sample
from utils.distributed import Processes, processes
from utils.errors import UserError, run_script
from utils.files import remove_file, to_json
from utils.inference import Predictor, autocast
from utils.initial_weights import take_over
from utils.interruption import Interruption
from utils.learner import Learner, Objective
from utils.losses import MattingLoss
from utils.model_card import read_description, training_card, validation_entry
from utils.optim import by_depth, count_parameters, parameter_groups
from utils.pairs import find_layout
from utils.parallel import start_loader_process, start_method
from utils.problems import write_problems
from utils.run_folder import RunFolder, Table, commit, refuse_differences, versions
from utils.run_log import RunLog
from utils.sampler import StepSampler
from utils.seeds import seed_number
from utils.synthetic import has_embedded, write_embedded
from utils.teaching import AutoEncoder, Reconstruction, load_teacher, reconstruction_error
from utils.trainer import Saving, Trainer
from utils.training_set import TrainingSet, find_training_set
from utils.transforms import EvalTransform, Preprocess, TrainTransform
from utils.validation import merge_shares, record_validation, validate


@dataclass
class Position:
    """How far a run is; its optimiser steps are the learner's to count.

    Attributes:
        epoch: Epochs done, their validation included.
        best_sad: Lowest validation SAD.
        since_best: Validations since then.
    """

    epoch: int = 0
    best_sad: float = float("inf")
    since_best: int = 0

    def note(self, val_sad: float) -> bool:
        """Takes in a validation; whether it is the best so far, which a NaN never is."""
        improved = val_sad < self.best_sad
        self.best_sad = val_sad if improved else self.best_sad
        self.since_best = 0 if improved else self.since_best + 1
        return improved

    def is_over(self, epochs: int, patience: int | None) -> bool:
        """Whether nothing is left to do."""
        return self.epoch >= epochs or (patience is not None and self.since_best >= patience)

    def status(self) -> int:
        """Of a run that is over: 1 without a best checkpoint, however often it is asked."""
        return 0 if math.isfinite(self.best_sad) else 1


class Trained(nn.Module):
    """All that has gradients, in one forward, so that they can be added up over processes as they come."""

    def __init__(self, network: TSRMatte, alignment: FeatureAlignment | None):
        super().__init__()
        self.network, self.alignment = network, alignment

    def forward(self, image: Tensor, crops: Crops | None) -> tuple[MattingOutput, tuple[Tensor, ...]]:
        """Output of the network, and its features as the teacher has them."""
        output = self.network(image, crops)
        return output, () if self.alignment is None else self.alignment(output.features)


def main() -> int:
    config = parse_train()
    cv2.setNumThreads(1)  # pictures are read in parallel; threads of OpenCV's own would compete, and survive no fork
    with processes(os.environ, config.run.device) as world:
        try:
            return train(config, world)
        except torch.OutOfMemoryError as error:
            raise UserError(describe_lack_of_memory(config, world, error)) from error


def train(config: Config, world: Processes) -> int:
    """Starts a run, or finds the one that is to be continued, and what it is trained on."""
    run, optim = config.run, config.optim
    refuse_idle_processes(config, world)
    with world.first(lambda: RunFolder(run.run_dir, resume=run.resume, auto_resume=run.auto_resume)) as folder:
        checkpoint = world.each(lambda: folder.load(world.print))
        if checkpoint and not {"training", "position"} <= checkpoint.keys():
            world.fail(
                f"--resume: {folder.loaded} holds no run, only weights: put the run's own file back, or start a new "
                f"run from these with --init-from in another --run-dir"
            )
        position = Position(**checkpoint["position"]) if checkpoint else Position()
        if checkpoint:
            if len(set(world.gather((folder.loaded.name, checkpoint["training"]["step"])))) > 1:
                world.fail(f"--resume: not all processes see the same files in {folder.path}: give a shared folder")
            world.each(lambda: refuse_differences(checkpoint["config"], to_json(asdict(config)), folder.loaded))
            if position.is_over(optim.epochs, optim.patience):
                world.print(f"{folder.loaded}: all is done; {describe_best(folder, position)}")
                return position.status()
        data = world.first(lambda: find_data(config))
        if checkpoint and checkpoint["data"] != data.fingerprint:
            where = " and ".join(str(each) for each in (config.data.data_root, config.composition.backgrounds) if each)
            world.fail(f"--resume: {folder.loaded} was trained on other pictures than {where} holds")
        train_on(config, folder, checkpoint, position, data, world)
        world.print(describe_best(folder, position))
        previews = f", previews {folder.path / 'previews'}" if config.run.previews else ""
        world.print(f"curves {folder.path / 'curves.png'}{previews}")
        return position.status()


def train_on(
    config: Config,
    folder: RunFolder,
    checkpoint: dict[str, Any] | None,
    position: Position,
    data: TrainingSet,
    world: Processes,
) -> None:
    """Trains and validates, from wherever the run stands to its end."""
    run, optim = config.run, config.optim
    begun = bool(checkpoint) and checkpoint["training"]["step"] > 0
    network = world.each(lambda: build_network(config, world.print, resuming=folder.resuming)).to(world.device)
    teacher, is_taught = build_teacher(config, folder, world, begun=begun)
    learner = build_learner(config, network, teacher, world)
    taught_by = None if teacher is None else checksum(teacher.state_dict())
    if checkpoint:
        if begun and checkpoint["taught_by"] != taught_by:
            world.fail(f"--resume: {folder.teacher} is another than the one the run has learnt from: put that one back")
        learner.restore(checkpoint.pop("training"), checkpoint.pop("model"), folder.loaded)  # and lets go of them
    predicting = network if learner.ema is None else learner.ema.module
    preprocess = Preprocess(image_size=config.data.image_size, keep_aspect=config.data.keep_aspect)
    predictor = Predictor(predicting, preprocess, Routing(**asdict(config.routing)), world.device, run.precision)
    card = world.first(lambda: describe_origin(config, data, checkpoint))
    described = {**self_description(config, preprocess), "card": card}

    def save() -> None:
        training = learner.state()  # of all processes
        if world.is_first:
            state = {"model": predicting.state_dict(), "training": training, "position": asdict(position)}
            folder.save({**described, **state, "data": data.fingerprint, "taught_by": taught_by})

    def open_log() -> RunLog:
        return RunLog(folder.path, step=learner.step, epoch=position.epoch, tensorboard=run.tensorboard)

    log = world.each(lambda: open_log() if world.is_first else None)
    if world.is_first:
        setting = {**versions(world.device), "processes": world.size}
        command = shlex.join(["python", *sys.argv])
        folder.record_start(described["config"], command=command, versions=setting, step=learner.step)
        write_problems(folder.path / "problems.csv", data.problems)
    if not checkpoint:
        save()  # from here on, --resume continues
    with Interruption() as interruption, nullcontext() if log is None else closing(log):
        transform = build_transform(config, network)
        reading = {"seed": run.seed, "max_pixels": config.data.max_pixels}
        pictures = MattingDataset(data.train, transform, backgrounds=data.backgrounds, **reading)
        trainer = Trainer(
            learner=learner,
            loader=make_loader(config, pictures, world),
            objective=matting_objective(config, preprocess, teacher, world.device),
            title="epoch",
            epochs=optim.epochs,
            learning_rate=optim.learning_rate,
            warmup_steps=optim.warmup_steps,
            log=log and log.add_step,
            save=save,
            **of_every_training(config, world, interruption),
        )
        validating = {"previews": run.previews, "num_workers": run.num_workers, "max_pixels": config.data.max_pixels}
        announce(config, network, teacher, trainer.sampler, data, world)
        if not is_taught:
            fit_teacher(config, teacher, data, folder, world, interruption)
            taught_by = checksum(teacher.state_dict())
        while not position.is_over(optim.epochs, optim.patience):
            trainer.train_epoch(position.epoch)
            epoch = position.epoch + 1
            validated = epoch % run.validate_every == 0 or epoch == optim.epochs
            if validated:
                shares = world.gather(
                    validate(predictor, data.val, **validating, world=world, interruption=interruption)
                )
                trainer.save_and_stop_if_asked()  # the shares may not be whole
                found = merge_shares(shares, world)
                if position.note(found.scores.mean["SAD"]) and world.is_first:
                    state = {"model": predicting.state_dict(), "epoch": epoch, "scores": found.scores.mean}
                    entry = validation_entry(config.data.dataset, found.scores, epoch=epoch, precision=run.precision)
                    save_checkpoint(folder.best, {**described, **state, "card": {**card, "scores": [entry]}})
                if world.is_first:
                    record_validation(found, folder, log, epoch=epoch, step=learner.step)
            position.epoch = epoch
            if validated or run.keep_epochs:
                save()
                trainer.saving.done()
                if world.is_first:
                    folder.keep(epoch, run.keep_epochs)
    if position.epoch < optim.epochs:
        world.print(f"stopped after epoch {position.epoch}: {position.since_best} validations without a new best")


def describe_best(folder: RunFolder, position: Position) -> str:
    """One line on the best checkpoint."""
    if not math.isfinite(position.best_sad):
        return "no validation was finite, so there is no best checkpoint: lower --learning-rate or use --precision fp32"
    where = folder.best if folder.best.exists() else f"{folder.best}, which is gone"
    return f"best validation SAD {position.best_sad:.4f}: {where}"


def matting_objective(
    config: Config, preprocess: Preprocess, teacher: MaskTeacher | None, device: torch.device
) -> Objective:
    """The loss of a batch of training samples."""
    refined_weight = config.loss.refined_weight if config.model.refiner else 0.0
    matting_loss = MattingLoss(**asdict(replace(config.loss, refined_weight=refined_weight)))

    def objective(trained: nn.Module, batch: Sample) -> dict[str, Tensor]:
        rgb, alpha = (each.to(device, non_blocking=True) for each in (batch.rgb, batch.alpha))
        crops, crop_alpha = to_crops(batch.crops, preprocess, device)
        with autocast(device, config.run.precision):
            output, aligned = trained(preprocess.normalise(rgb), crops)
            with torch.no_grad():
                taught = () if teacher is None else teacher(alpha)
        return matting_loss(output, alpha, crops, crop_alpha, aligned, taught)

    return objective


# -------------------------------------------------------------------------------------------- before the first step


def refuse_idle_processes(config: Config, world: Processes) -> None:
    """Each process needs an image of a step.

    Raises:
        UserError: A step has fewer images than there are processes.
    """
    optim = config.optim
    if optim.batch_size * optim.accumulation_steps < world.size:
        world.fail(
            f"--batch-size {optim.batch_size} x --accumulation-steps {optim.accumulation_steps} are fewer images than "
            f"the {world.size} processes that share them: raise --accumulation-steps"
        )


def find_data(config: Config) -> TrainingSet:
    """The pictures, all files checked; the embedded data is made if it is not there. For one process."""
    data = config.data
    if find_layout(data.dataset).name == "Embedded" and not has_embedded(data.data_root):
        write_embedded(data.data_root, **EmbeddedConfig().pictures())
    found = find_training_set(
        data.dataset,
        data.data_root,
        on_bad=data.on_bad,
        max_pixels=data.max_pixels,
        checks=RUNS / ".data_checks",
        composition=asdict(config.composition),
    )
    for note in found.notes:
        print(note)
    return found


def build_network(config: Config, tell: Callable[[str], object], *, resuming: bool) -> TSRMatte:
    """The network at its first step: from scratch, with ImageNet weights, or with those of --init-from.

    Nothing is read or downloaded where a checkpoint will replace it anyway. What a user should know, `tell` gets.
    """
    run, init_from = config.run, None if resuming else config.run.init_from
    arguments = asdict(config.model)
    if resuming or init_from:
        arguments |= {"pretrained": False, "backbone_weights": None}
    torch.manual_seed(run.seed)
    try:
        network = TSRMatte(**arguments)
    except PretrainedWeightsError as error:
        raise UserError(f"{error}; give --backbone-weights FILE, or train from scratch with --no-pretrained") from error
    if init_from:
        take_over(network, architecture(config), init_from, tell)
    if network.refiner is None:  # no loss reaches what expects its gain: processes would wait for that gradient
        network.student.error_head.requires_grad_(False)
    if config.optim.freeze != "none":
        network.freeze(config.optim.freeze)
    if run.checkpoint_activations:
        network.student.checkpoint_activations()
    return network.to(memory_format=torch.channels_last)  # as Swin's feature maps are, and prediction's weights


def build_learner(config: Config, network: TSRMatte, teacher: MaskTeacher | None, world: Processes) -> Learner:
    """What is trained, with its optimiser, at step 0."""
    run, optim = config.run, config.optim
    alignment = None
    if teacher is not None:
        torch.manual_seed(seed_number("alignment", run.seed) % 2**63)
        alignment = FeatureAlignment(network.student.feature_channels, teacher.channels).to(world.device)
    blocks = by_depth(network.student.encoder)
    rates = {
        f"encoder {depth}": optim.backbone_learning_rate * optim.layer_decay ** (len(blocks) - 1 - depth)
        for depth in range(len(blocks))
    }
    modules = {**dict(zip(rates, blocks, strict=True)), "network": network, "alignment": alignment}
    rates |= {"network": optim.learning_rate, "alignment": optim.learning_rate}
    learner = Learner(
        Trained(network, alignment),
        parameter_groups(modules, rates, optim.weight_decay),
        world=world,
        precision=run.precision,
        clip_norm=optim.clip_norm,
        max_dropped_steps=optim.max_dropped_steps,
        averaged=network,
        ema_decay=optim.ema_decay,
    )
    if run.compile:
        network.compile()  # what training runs; prediction, whose sizes vary, stays as it is
    return learner


def build_transform(config: Config, network: TSRMatte) -> TrainTransform:
    """The augmentation; with squares at native resolution where there is a refiner to be trained on them."""
    options = {**asdict(config.augment), "dilate_px": config.data.dilate_px}
    options |= {"native_crops": 0} if network.refiner is None else {"halo_px": network.refiner.halo_px}
    return TrainTransform(config.data.image_size, **options)


def make_loader(config: Config, dataset: MattingDataset, world: Processes) -> DataLoader:
    """Batches of training samples; order and augmentation are functions of (seed, epoch, index)."""
    optim = config.optim
    sampler = StepSampler(
        len(dataset),
        seed=config.run.seed,
        batch_size=optim.batch_size,
        step_images=optim.batch_size * optim.accumulation_steps,
        rank=world.rank,
        world_size=world.size,
    )
    return DataLoader(dataset, batch_sampler=sampler, **loading(config, world))


def of_every_training(config: Config, world: Processes, interruption: Interruption) -> dict[str, Any]:
    """What the trainers of teacher and network have in common."""
    run = config.run
    return {
        "world": world,
        "seed": run.seed,
        "log_every": run.log_every,
        "saving": Saving(*run.save_interval()),
        "interruption": interruption,
    }


def loading(config: Config, world: Processes) -> dict[str, Any]:
    """How a loader reads: in processes that hold nothing of this one's, least of all the lock on the run folder."""
    workers = config.run.num_workers
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "multiprocessing_context": start_method() if workers else None,
        "worker_init_fn": start_loader_process,
        "pin_memory": world.device.type == "cuda",
        "generator": torch.Generator(),  # not the global one, of which a resume would draw once more
    }


def build_teacher(
    config: Config, folder: RunFolder, world: Processes, *, begun: bool
) -> tuple[MaskTeacher | None, bool]:
    """The frozen teacher: of this or another run, from ImageNet (swin), or yet to be trained.

    Args:
        config: Of the run.
        folder: Of the run; the teacher is kept there.
        world: The processes that train together.
        begun: Whether the student has learnt from it already.

    Returns:
        The teacher, and whether it has learnt all it is to learn.

    Raises:
        UserError: The student has learnt from a teacher that is no longer there.
    """
    kind, model = config.teacher.teacher, config.model
    if kind == "none":
        return None, True
    if world.is_first and not folder.resuming:  # left by a start that was killed, with other settings perhaps
        remove_file(folder.teacher)
        remove_file(folder.teacher_training)
    is_here = world.first(folder.teacher.exists)  # another machine may see it later
    if begun and not is_here:
        world.fail(f"--resume: {folder.teacher} is gone, which the run has learnt from: put it back, or start anew")
    torch.manual_seed(config.run.seed + 1)  # the same teacher, however the network before it was made
    source = folder.teacher if is_here else config.teacher.teacher_checkpoint
    if source is not None:
        teacher, saved = world.each(lambda: load_teacher(source, kind))
    else:
        weights = {"pretrained": model.pretrained, "backbone_weights": model.backbone_weights} if kind == "swin" else {}
        try:
            teacher = MaskTeacher(**teacher_arguments(config), **weights)
        except PretrainedWeightsError as error:
            raise UserError(f"{error}; give --backbone-weights FILE, or --teacher cnn") from error
        saved = {"teacher": teacher_arguments(config), "model": teacher.state_dict()}
    is_taught = source is not None or (kind == "swin" and model.pretrained)  # which has learnt to see already
    if is_taught and not is_here and world.is_first:
        save_checkpoint(folder.teacher, saved)
    return teacher.eval().requires_grad_(False).to(world.device), is_taught


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
    data: TrainingSet,
    folder: RunFolder,
    world: Processes,
    interruption: Interruption,
) -> None:
    """Trains the teacher on the true mattes (never dilated ones), freezes it and keeps it in the run folder."""
    options, run, device = config.teacher, config.run, world.device
    torch.manual_seed(run.seed + 2)
    auto_encoder = AutoEncoder(teacher.requires_grad_(True), options.teacher_width).to(device)
    rates = {"auto-encoder": options.teacher_learning_rate}
    learner = Learner(
        auto_encoder,
        parameter_groups({"auto-encoder": auto_encoder}, rates, weight_decay=0.01),
        world=world,
        precision=run.precision,
        clip_norm=config.optim.clip_norm,
        max_dropped_steps=config.optim.max_dropped_steps,
    )
    epochs_done = 0
    if world.first(folder.teacher_training.exists):
        try:
            saved = load_checkpoint(folder.teacher_training)
            learner.restore(saved["training"], {}, folder.teacher_training)
            epochs_done = saved["epoch"]
        except DamagedCheckpointError as error:
            world.print(f"{error}; the teacher is trained from its beginning")

    def save() -> None:
        training = learner.state()
        if world.is_first:
            state = {"model": teacher.state_dict(), "training": training, "epoch": epochs_done}
            save_checkpoint(folder.teacher_training, state)

    reading = {"seed": run.seed, "max_pixels": config.data.max_pixels}
    transforms = TrainTransform(config.data.image_size, **asdict(config.augment)), EvalTransform(config.data.image_size)
    training_mattes = AlphaDataset(data.train, transforms[0], **reading)
    own_held_out = AlphaDataset(world.share(data.val), transforms[1], **reading)
    trainer = Trainer(
        learner=learner,
        loader=make_loader(config, training_mattes, world),
        objective=Reconstruction(device, run.precision),
        title="teacher",
        epochs=options.teacher_epochs,
        learning_rate=options.teacher_learning_rate,
        warmup_steps=options.teacher_warmup_steps,
        log=None,
        save=save,
        **of_every_training(config, world, interruption),
    )
    held_out = DataLoader(own_held_out, batch_size=config.optim.batch_size, **loading(config, world))
    table = Table(folder.path / "teacher.csv", keep_up_to={"epoch": epochs_done}) if world.is_first else None
    while epochs_done < options.teacher_epochs:
        trainer.train_epoch(epochs_done)
        auto_encoder.eval()
        error = reconstruction_error(auto_encoder, held_out, world, interruption)
        trainer.save_and_stop_if_asked()  # it may be of some mattes only
        epochs_done += 1
        if world.is_first:
            tqdm.write(
                f"teacher epoch {epochs_done}: reconstruction MAD {error:.5f} on {len(data.val)} held-out mattes"
            )
            table.append({"epoch": epochs_done, "step": learner.step, "reconstruction_MAD": error})
        save()
    teacher.eval().requires_grad_(False)
    if world.is_first:
        save_checkpoint(folder.teacher, {"teacher": teacher_arguments(config), "model": teacher.state_dict()})
        remove_file(folder.teacher_training)


def architecture(config: Config) -> dict[str, Any]:
    """What TSRMatte is rebuilt from."""
    return {k: v for k, v in asdict(config.model).items() if k not in {"pretrained", "backbone_weights"}}


def self_description(config: Config, preprocess: Preprocess) -> dict[str, Any]:
    """What a checkpoint needs to rebuild the network and feed it, as JSON types."""
    described = {
        "config": asdict(config),
        "network": architecture(config),
        "preprocess": asdict(preprocess),
        "routing": asdict(config.routing),
    }
    return to_json(described)


def describe_origin(config: Config, data: TrainingSet, checkpoint: dict[str, Any] | None) -> dict[str, Any]:
    """The model card as far as it is known now; a run that is continued keeps its own, and adds the commit."""
    card = checkpoint.get("card") if checkpoint else None
    if card is None:
        images = {"train": len(data.train)}
        if data.backgrounds is not None:
            images["backgrounds"] = len(data.backgrounds.backgrounds)
        source, earlier = None if checkpoint else config.run.init_from, []
        if source is not None:
            earlier = read_description(load_checkpoint(source, "--init-from"), source)["card"]["data"]
        card = training_card(to_json(asdict(config)), images=images, started_from=earlier)
    return {**card, "commits": list(dict.fromkeys([*card["commits"], commit()]))}


def announce(
    config: Config,
    network: TSRMatte,
    teacher: MaskTeacher | None,
    sampler: StepSampler,
    data: TrainingSet,
    world: Processes,
) -> None:
    """Prints, once, what is going to happen."""
    model, optim, run = config.model, config.optim, config.run
    encoder, student = count_parameters(network.student.encoder), count_parameters(network.student)
    fixed = sum(parameter.numel() for parameter in network.parameters() if not parameter.requires_grad)
    shared = f"; {world.size} processes share it, {max(sampler.batches(0))} at a time each" if world.size > 1 else ""
    lines = (
        f"preset {config.preset}: {config.data.dataset} at {config.data.data_root}, {len(data.train)} training and "
        f"{len(data.val)} validation images, {config.data.image_size} px",
        f"parameters: encoder ({model.backbone}) {encoder:,}, decoder {student - encoder:,}, refiner "
        f"{count_parameters(network.refiner):,}; teacher ({config.teacher.teacher}) {count_parameters(teacher):,}"
        + (f"; {fixed:,} of them frozen ({optim.freeze})" if optim.freeze != "none" else ""),
        f"effective batch {optim.batch_size} x {optim.accumulation_steps} = {sampler.step_images}{shared}, learning "
        f"rate {optim.learning_rate:g} (encoder {optim.backbone_learning_rate:g}), {optim.epochs} epochs of "
        f"{sampler.steps} steps",
        f"device {world.device}, {run.precision}; run folder {run.run_dir}",
    )
    for line in lines:
        world.print(line)


def describe_lack_of_memory(config: Config, world: Processes, error: torch.OutOfMemoryError) -> str:
    """One line that says what helps."""
    optim = config.optim
    return (
        f"out of memory on {world.device} (peak {peak_gb(world.device):.1f} GB; {describe_error(error)}): lower "
        f"--batch-size {optim.batch_size} and raise --accumulation-steps {optim.accumulation_steps} by as much, which "
        f"gives the same steps; or add --checkpoint-activations, use --precision bf16, or lower --native-crops or "
        f"--image-size"
    )


if __name__ == "__main__":
    run_script(main)
