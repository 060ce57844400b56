"""Every hyperparameter, once, with its unit and reason; presets; and the command lines made from them.

A section is the keyword arguments of one callee, where its docstring says so. A preset is a function that returns a
`Config`. Nothing below the scripts sees these classes: the scripts unpack them.
"""

import contextlib
import difflib
import io
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from math import inf
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args

import tyro

Backbone = Literal["nano", "tiny", "small", "base", "base384", "large"]
Precision = Literal["bf16", "fp16", "fp32"]
OnBad = Literal["error", "skip"]
Frozen = Literal["none", "encoder", "coarse", "refiner"]
ForegroundMethod = Literal["multilevel", "blur-fusion"]
Metric = Literal["SAD", "MSE", "MAD", "Grad", "Conn", "MAE", "F", "wF", "S", "E", "HCE", "mBA", "BIoU", "band"]
T = TypeVar("T")

RUNS = Path("checkpoints")  # runs are made here; scripts that are given no checkpoint look here
MAX_PIXELS = 200_000_000  # 16384 x 12000 px; larger files are refused before they are decoded


@dataclass(frozen=True)
class EffortConfig:
    """How much of a photograph is refined: arguments of utils.inference.with_effort. Not given: as it was trained."""

    refine_budget: float | None = None  # largest share of its pixels, the most uncertain first
    max_patches: int | None = None  # most patches
    # most GB for the refiner's patches at a time; coarse stage and photograph not counted; results are equal
    memory_limit: float | None = None

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        _require("from 0 to 1", lambda v: 0 <= v <= 1, self, "refine_budget")
        _require("0 or more", lambda v: v >= 0, self, "max_patches")
        _require("above 0", lambda v: 0 < v < inf, self, "memory_limit")


# ---------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class ModelConfig:
    """The network: arguments of models.TSRMatte."""

    backbone: Backbone = "base"  # Swin of the coarse stage; nano is for tests and the demo
    window_size: int = 8  # attention window in tokens; divides image_size / 32, so nothing is padded or shrunk
    decoder_width: int = 64  # channels at stride 4; doubles towards the depth
    coarse_stride: Literal[2, 4] = 2  # of the coarse logits before they are enlarged
    drop_path_rate: float = 0.2  # stochastic depth of the last encoder block
    refiner: bool = True  # off: the coarse alpha is the result
    refiner_width: int = 64  # channels for each 2x2 pixels at native resolution
    refiner_blocks: int = 2  # dilated inception blocks; each adds 10 px to the halo
    gradient_map: bool = True  # the refiner sees the image's gradients besides colours and coarse alpha
    zero_init: bool = True  # the refiner changes nothing until it is trained
    pretrained: bool = True  # start from ImageNet weights (downloaded by timm)
    backbone_weights: Path | None = None  # read them from this timm .pth or .safetensors instead


@dataclass(frozen=True)
class RoutingConfig:
    """Which native-resolution patches are refined at inference: arguments of models.Routing."""

    # Alpha that a patch must be expected to gain for each pixel of dense work. A small network kept 95 % of what
    # dense refinement gains for half of its work (results/README.md).
    error_threshold: float = 0.01
    refine_budget: float = 1.0  # largest share of a picture's pixels that is refined, the most uncertain first
    max_patches: int | None = None  # most patches of a picture; no bound if not given
    patch_px: int = 32  # side of the smallest patches at native resolution, even
    largest_px: int = 256  # side of the largest: patch_px times a power of two; their halos weigh least
    batch_px: int = 196_608  # pixels refined at a time, halos counted; what fits the caches is fastest


@dataclass(frozen=True)
class TeacherConfig:
    """The mask teacher: a network that sees the true alpha, trained first and then frozen."""

    teacher: Literal["cnn", "swin", "none"] = "cnn"  # what the student's features are pulled towards
    teacher_width: int = 32  # channels of the CNN at stride 2; 4x and 8x that at strides 8 and 16
    teacher_epochs: int = 5  # as an auto-encoder of mattes; a random frozen teacher teaches nothing
    teacher_learning_rate: float = 1e-3  # peak, of AdamW; a small network from scratch
    teacher_warmup_steps: int = 20  # from 0 to the peak; a fifth of all steps at most
    teacher_checkpoint: Path | None = None  # take the teacher of an earlier run (its teacher.pth)


@dataclass(frozen=True)
class LossConfig:
    """Weights, used as written; 0 removes the term. Arguments of utils.losses.MattingLoss."""

    l1_weight: float = 1.0  # mean absolute alpha error
    gradient_weight: float = 1.0  # Sobel differences: sharp edges
    laplacian_weight: float = 0.5  # Laplacian pyramid: all scales
    ssim_weight: float = 0.25  # local structure; small, as it is large at first
    structure_weight: float = 0.2  # boundary-weighted BCE + IoU: finds the object early; more of it leaves fog
    coarse_weight: float = 1.0  # of all of these on the coarse logits
    refined_weight: float = 1.0  # of all of these on the refined logits
    alignment_weight: float = 0.5  # student features towards the teacher's
    error_weight: float = 0.75  # what is refinement expected to gain: what routing reads; pooled crops count as 0


@dataclass(frozen=True)
class DataConfig:
    """Which photographs, and how they are read."""

    dataset: str = "DIS5K"  # a name of utils.layouts.DATASETS; 'custom' is any folder with train/ and val/ pairs
    data_root: Path = Path("DIS5K")  # folder that holds it
    image_size: int = 1024  # px, longer side of the coarse stage's input; a multiple of 32
    # Predict in the photograph's own proportions, not squashed to a square: half the work for 16:9; as accurate on real
    # photographs, and a little less on embedded ones (results/README.md).
    keep_aspect: bool = False
    dilate_px: int = 0  # grow the true mattes by this radius in training (px at image_size; the dilation strategy)
    on_bad: OnBad = "error"  # of damaged and unmatched files; skip: train on the rest, with a list of what is left out
    max_pixels: int = MAX_PIXELS  # refuse larger files before decoding them (decompression bombs)


@dataclass(frozen=True)
class CompositionConfig:
    """New backgrounds in training: with `backgrounds` found, arguments of utils.backgrounds.NewBackgrounds."""

    backgrounds: Path | None = None  # folder of photographs without a subject; none: nothing is composed
    foregrounds: Path | None = None  # colours solved by tools.solve_foreground; without them, a fast estimate
    background_probability: float = 0.5  # of a composite instead of the photograph
    extra_subject_probability: float = 0.1  # of a second subject in a composite; with one, of a third


@dataclass(frozen=True)
class AugmentConfig:
    """What training does to a pair. Arguments of utils.transforms.TrainTransform."""

    flip_probability: float = 0.5  # left-right
    crop_scale: tuple[float, float] = (0.4, 1.0)  # share of the picture's area that is seen
    crop_ratio: tuple[float, float] = (0.8, 1.25)  # factor on the crop's aspect ratio; 1 is the picture's own
    brightness: float = 0.2  # factor from 1 - x to 1 + x
    contrast: float = 0.2  # likewise
    saturation: float = 0.2  # likewise
    blur_probability: float = 0.1  # of a blur, out of focus or moving, of picture and alpha alike
    blur_px: float = 2.5  # its largest radius, px at image_size
    noise_probability: float = 0.2  # of sensor noise
    noise_std: float = 8.0  # its largest standard deviation, levels of 255
    jpeg_probability: float = 0.2  # of another JPEG compression
    jpeg_quality: tuple[int, int] = (40, 95)  # its lowest and highest quality
    native_crops: int = 4  # squares a picture at native resolution, which the refiner is trained on
    native_px: int = 256  # their side
    # native pixels along one of the coarse stage's: 8 is 8192 px at 1024; no picture passes for over 8 times its own
    native_zoom: tuple[float, float] = (1.0, 8.0)
    native_on_edge: float = 0.75  # share of the squares on the matte's edge; the rest teach routing what is certain


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up and cosine decay, by step."""

    epochs: int = 100  # passes over the training set
    batch_size: int = 8  # images that are in a device's memory at once
    # Batches an optimiser step, which all devices share: batch_size x accumulation_steps is the effective batch of any
    # number of them.
    accumulation_steps: int = 2
    learning_rate: float = 2e-4  # peak, of everything but the encoder
    backbone_learning_rate: float = 5e-5  # peak, of the encoder: it starts from ImageNet
    weight_decay: float = 0.05  # on matrices; never on biases, norms and position biases
    warmup_steps: int = 500  # from 0 to the peak; a fifth of all steps at most
    layer_decay: float = 1.0  # factor on the encoder's learning rate from block to block, towards its input; often 0.8
    clip_norm: float = 1.0  # largest gradient norm
    max_dropped_steps: int = 20  # so many in a row that are not finite end the run; fp16 needs some to find its scale
    ema_decay: float = 0.0  # of an average of the weights over the steps, which is then what predicts; 0: no average
    freeze: Frozen = "none"  # what is not trained; encoder: the Swin, coarse: all but refiner and expected gain
    patience: int | None = None  # validations without a new best that end the run; if not given, nothing does


@dataclass(frozen=True)
class RunConfig:
    """Where and how the run happens."""

    run_dir: Path = RUNS / "tsr"  # everything the run writes
    resume: bool = False  # continue the run in run_dir from its last checkpoint
    auto_resume: bool = False  # the same if there is a run, else start it: one command for both, as job queues need
    init_from: Path | None = None  # start from the weights of this checkpoint, of the same architecture
    save_every: str = "15min"  # between checkpoints: minutes, or "500": steps; there is one after each validation, too
    keep_epochs: int = 0  # newest epochs whose whole checkpoint is kept as epoch_NNN.pth, beside last, previous, best
    device: str = "auto"  # auto takes cuda if there is one; cuda without one is an error
    precision: Precision = "bf16"  # of the networks' arithmetic; losses are always float32
    num_workers: int = 8  # processes that read and augment; changes nothing but the speed
    seed: int = 0  # of weights, order and augmentation
    validate_every: int = 1  # epochs
    previews: int = 6  # validation pictures drawn after each validation
    log_every: int = 20  # steps between rows of log.csv; in between, the host never waits for the GPU
    tensorboard: bool = False  # write the rows of log.csv and validation.csv to run_dir/events as well
    checkpoint_activations: bool = False  # keep less of the encoder for the backward pass, and compute it again
    compile: bool = False  # torch.compile the training step: minutes at the start, then faster on a GPU

    def save_interval(self) -> tuple[float, float]:
        """`save_every` as steps and seconds, one of which is infinite."""
        number, minutes = re.fullmatch(r"([1-9]\d*)(min)?", self.save_every).groups()
        return (inf, 60.0 * int(number)) if minutes else (int(number), inf)


def _names(section: type) -> tuple[str, ...]:
    return tuple(each.name for each in fields(section))


# What has no effect without a refiner, and without a teacher.
OF_REFINER = (
    *_names(RoutingConfig), *(name for name in _names(AugmentConfig) if name.startswith("native_")),
    "refiner_width", "refiner_blocks", "gradient_map", "zero_init", "refined_weight", "error_weight",
)  # fmt: skip
OF_TEACHER = (*(name for name in _names(TeacherConfig) if name != "teacher"), "alignment_weight")


@dataclass(frozen=True)
class Config:
    """A whole training run."""

    preset: tyro.conf.Suppress[str]
    model: ModelConfig = field(default_factory=ModelConfig)
    routing: RoutingConfig = field(default_factory=RoutingConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    composition: CompositionConfig = field(default_factory=CompositionConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy, for values that contradict each other."""
        model, data, optim, run = self.model, self.data, self.optim, self.run
        if model.backbone == "nano" and model.pretrained and model.backbone_weights is None:
            raise ValueError("--backbone nano has no ImageNet weights: add --no-pretrained")
        if model.backbone_weights is not None and not model.pretrained:
            raise ValueError("--no-pretrained contradicts --backbone-weights: give one of them")
        if data.image_size < 32 or data.image_size % 32:
            raise ValueError(f"--image-size {data.image_size}: must be a multiple of 32")
        if model.refiner and (model.refiner_width < 4 or model.refiner_width % 4):
            raise ValueError(f"--refiner-width {model.refiner_width}: must be a multiple of 4")
        if model.decoder_width < 2 or model.decoder_width % 2:
            raise ValueError(f"--decoder-width {model.decoder_width}: must be even")
        if run.resume and run.auto_resume:
            raise ValueError("--resume and --auto-resume: give one of them")
        if not re.fullmatch(r"[1-9]\d*(min)?", run.save_every):
            raise ValueError(f"--save-every {run.save_every}: give steps, as 500, or minutes, as 15min")
        if run.init_from is not None and model.backbone_weights is not None:
            raise ValueError("--init-from holds the encoder's weights, too: leave out --backbone-weights")
        if optim.freeze == "refiner" and not model.refiner:
            raise ValueError("--freeze refiner has no effect without a refiner: leave it out, or add --refiner")
        if optim.freeze == "coarse" and not model.refiner:
            raise ValueError("--freeze coarse leaves nothing to train without a refiner: leave it out")
        if optim.freeze == "coarse" and run.init_from is None:
            raise ValueError("--freeze coarse keeps a coarse stage as it is: give the one to keep with --init-from")
        if optim.freeze == "refiner" and run.init_from is None:
            raise ValueError("--freeze refiner keeps a refiner as it is: give the one to keep with --init-from")
        if optim.freeze == "coarse" and self.teacher.teacher != "none":
            raise ValueError("--freeze coarse leaves the teacher without effect: add --teacher none")
        if optim.freeze == "encoder" and not (model.pretrained or run.init_from):
            raise ValueError("--freeze encoder keeps an untrained one with --no-pretrained: give --init-from")
        if self.teacher.teacher == "none" and self.teacher.teacher_checkpoint is not None:
            raise ValueError("--teacher none contradicts --teacher-checkpoint: give one of them")
        if not 0 < self.augment.crop_scale[0] <= self.augment.crop_scale[1] <= 1:
            raise ValueError("--crop-scale: give two shares of the area, 0 < smallest <= largest <= 1")
        if not 1 <= self.augment.jpeg_quality[0] <= self.augment.jpeg_quality[1] <= 100:
            raise ValueError("--jpeg-quality: give two qualities, 1 <= lowest <= highest <= 100")
        composition = self.composition
        if composition.backgrounds is None:
            for each in fields(composition):
                if getattr(composition, each.name) != each.default:
                    raise ValueError(f"--{each.name.replace('_', '-')} has no effect without --backgrounds: give both")
        if composition.backgrounds is not None and composition.background_probability == 0:
            raise ValueError("--background-probability 0 leaves --backgrounds without effect: leave one of them out")
        self._refuse_without_effect()
        if not 1 <= self.augment.native_zoom[0] <= self.augment.native_zoom[1] < inf:
            raise ValueError("--native-zoom: give two factors, 1 <= smallest <= largest")
        _require("at least 1", lambda v: v >= 1, self.augment, "native_crops")
        _require("a multiple of 2, at least 8", lambda v: v >= 8 and v % 2 == 0, self.augment, "native_px")
        if not 0 < self.augment.crop_ratio[0] <= self.augment.crop_ratio[1]:
            raise ValueError("--crop-ratio: give two ratios, 0 < smallest <= largest")
        _require("at least 1", lambda v: v >= 1, model, "window_size", "refiner_blocks")
        others = {"coarse_weight", "refined_weight", "alignment_weight", "error_weight"}
        if not any(weight for name, weight in vars(self.loss).items() if name not in others):
            raise ValueError("every matte loss is switched off: raise --structure-weight or --l1-weight")
        loss = self.loss
        if loss.coarse_weight == 0 and (loss.refined_weight == 0 or not model.refiner):
            raise ValueError("no output is supervised: raise --coarse-weight, or --refined-weight with a refiner")
        if model.refiner and loss.refined_weight == 0:
            raise ValueError("--refined-weight 0 leaves the refiner untrained: add --no-refiner")
        if model.refiner and loss.error_weight == 0:
            raise ValueError("--error-weight 0 leaves routing without a guide: add --no-refiner, or raise it")
        if self.teacher.teacher != "none" and loss.alignment_weight == 0:
            raise ValueError("--alignment-weight 0 leaves the teacher without effect: add --teacher none")
        tokens = data.image_size // 32
        if tokens % model.window_size:
            fitting = ", ".join(str(w) for w in range(2, min(tokens, 16) + 1) if tokens % w == 0) or "1"
            raise ValueError(
                f"--window-size {model.window_size} does not divide --image-size {data.image_size} / 32 = {tokens}: "
                f"choose one of {fitting}, or another size"
            )
        _require("0 or more", lambda v: v >= 0, self.routing, "max_patches")
        _require("at least 1", lambda v: v >= 1, self.routing, "patch_px", "largest_px", "batch_px")
        if self.routing.patch_px % 2:
            raise ValueError(f"--patch-px {self.routing.patch_px}: must be even")
        times, rest = divmod(self.routing.largest_px, self.routing.patch_px)
        if rest or times & (times - 1):
            raise ValueError(
                f"--largest-px {self.routing.largest_px}: must be --patch-px {self.routing.patch_px} times 1, 2, 4 ..."
            )
        _require("at least 1", lambda v: v >= 1, self.teacher, "teacher_width")
        of_optim = ("epochs", "batch_size", "accumulation_steps", "max_dropped_steps", "patience")
        _require("at least 1", lambda v: v >= 1, optim, *of_optim)
        _require("above 0, at most 1", lambda v: 0 < v <= 1, optim, "layer_decay")
        _require("from 0 to below 1", lambda v: 0 <= v < 1, optim, "ema_decay")
        _require("at least 1", lambda v: v >= 1, run, "validate_every", "log_every")
        _require("at least 1", lambda v: v >= 1, data, "max_pixels")
        _require("above 0", lambda v: 0 < v < inf, optim, "learning_rate", "clip_norm")
        _require("above 0", lambda v: 0 < v < inf, self.teacher, "teacher_learning_rate")
        _require("0 or more", lambda v: 0 <= v < inf, optim, "backbone_learning_rate", "weight_decay", "warmup_steps")
        _require("0 or more", lambda v: 0 <= v < inf, self.loss, *(each.name for each in fields(self.loss)))
        _require("0 or more", lambda v: v >= 0, self.teacher, "teacher_epochs", "teacher_warmup_steps")
        _require("0 or more", lambda v: v >= 0, run, "num_workers", "previews", "seed", "keep_epochs")
        _require("0 or more", lambda v: v >= 0, data, "dilate_px")
        _require("from 0 to 1", lambda v: 0 <= v <= 1, self.routing, "error_threshold", "refine_budget")
        shares = ("flip", "blur", "noise", "jpeg")
        jitters = ("brightness", "contrast", "saturation", *(f"{each}_probability" for each in shares))
        _require("from 0 to 1", lambda v: 0 <= v <= 1, self.augment, *jitters, "native_on_edge")
        _require("0 or more", lambda v: 0 <= v < inf, self.augment, "blur_px", "noise_std")
        chances = ("background_probability", "extra_subject_probability")
        _require("from 0 to 1", lambda v: 0 <= v <= 1, composition, *chances)
        _require("from 0 to below 1", lambda v: 0 <= v < 1, model, "drop_path_rate")

    def _refuse_without_effect(self) -> None:
        """Raises ValueError for a setting that is not the preset's own, and has no effect beside the others.

        The weight 0 of a loss says of itself that there is none.
        """
        kind, frozen = self.teacher.teacher, self.optim.freeze
        without = []
        if not self.model.refiner:
            without.append((OF_REFINER, "without a refiner: leave it out, or add --refiner"))
        if kind == "none":
            without.append((OF_TEACHER, "without a teacher: leave it out, or choose one with --teacher"))
        if kind == "swin":
            without.append((("teacher_width",), "on --teacher swin: leave it out"))
        if frozen in ("encoder", "coarse"):
            without.append((("backbone_learning_rate", "layer_decay"), f"with --freeze {frozen}: leave it out"))
        usual, own = _settings(PRESETS[self.preset]()), _settings(self)
        for names, reason in without:
            for name in names:
                if own[name] != usual[name] and not (name.endswith("_weight") and own[name] == 0):
                    raise ValueError(f"--{name.replace('_', '-')} has no effect {reason}")


def _settings(config: Config) -> dict[str, Any]:
    """The settings of all sections by name, of which no two have one."""
    sections = (value for value in vars(config).values() if is_dataclass(value))
    return {name: value for section in sections for name, value in asdict(section).items()}


def tsr() -> Config:
    """Teacher and refiner on a Swin-B, DIS5K at 1024 px: the whole method."""
    return Config(preset="tsr")


def tsr_tiny() -> Config:
    """The whole method on a Swin-T."""
    return _changed(tsr(), preset="tsr-tiny", model={"backbone": "tiny", "decoder_width": 48})


def tsr_fast() -> Config:
    """For interactive use: a Swin-T that sees 512 px, refined at native resolution all the same."""
    return _changed(
        tsr_tiny(),
        preset="tsr-fast",
        model={"refiner_width": 32, "refiner_blocks": 1},  # a seventh of the work (results/README.md)
        data={"image_size": 512, "keep_aspect": True},
        optim={"batch_size": 16, "accumulation_steps": 1},
    )


def tsr_large() -> Config:
    """The whole method on a Swin-L."""
    return _changed(
        tsr(),
        preset="tsr-large",
        model={"backbone": "large", "decoder_width": 96, "drop_path_rate": 0.3},
        optim={"batch_size": 4, "accumulation_steps": 4},
    )


def baseline() -> Config:
    """The Swin alone, no teacher, no refiner: what the study calls baseline, at full size."""
    return _changed(
        tsr(), preset="baseline", model={"refiner": False}, teacher={"teacher": "none"}, loss={"error_weight": 0.0}
    )


def dilation() -> Config:
    """The Swin alone, trained on dilated mattes: what the study calls dilation, at full size."""
    return _changed(baseline(), preset="dilation", data={"dilate_px": 5})


def locator() -> Config:
    """Camouflaged-object mode: find the object with the structure loss only (COD10K)."""
    return _changed(
        baseline(),
        preset="locator",
        loss={
            "l1_weight": 0.0,
            "gradient_weight": 0.0,
            "laplacian_weight": 0.0,
            "ssim_weight": 0.0,
            "structure_weight": 1.0,
        },
        data={"dataset": "COD10K", "data_root": Path("COD10K"), "image_size": 512},
    )


def demo() -> Config:
    """The whole method, nano size, on embedded data: minutes on two CPU cores."""
    return _changed(
        tsr(),
        preset="demo",
        model={
            "backbone": "nano",
            "window_size": 4,
            "decoder_width": 24,
            "drop_path_rate": 0.0,
            "refiner_width": 16,
            "pretrained": False,
        },
        teacher={"teacher_width": 16, "teacher_epochs": 1},
        data={"dataset": "embedded", "data_root": Path("data/embedded"), "image_size": 128},
        augment={  # few passes: closer to what is asked in the end
            "crop_scale": (0.6, 1.0),
            "blur_probability": 0.0,
            "noise_probability": 0.0,
            "jpeg_probability": 0.0,
            "native_px": 64,
            "native_zoom": (1.0, 4.0),
        },
        optim={
            "epochs": 5,
            "batch_size": 8,
            "accumulation_steps": 1,
            "learning_rate": 2e-3,
            "backbone_learning_rate": 2e-3,  # from scratch: as fast as the rest
            "warmup_steps": 50,
        },
        run={"precision": "fp32", "num_workers": 0},  # on two cores, workers would compete
    )


def tsr_nano() -> Config:
    """The whole method, nano size, from scratch, on photographs of one's own: hours on a CPU core or two."""
    return _changed(
        demo(),
        preset="tsr-nano",
        model={"window_size": 8, "decoder_width": 32, "refiner_width": 32},  # 2.8 million weights
        teacher={"teacher_epochs": 5},
        data={"dataset": "custom", "data_root": Path("photos"), "image_size": 256},
        augment={**asdict(AugmentConfig()), "native_px": 96},  # as the larger presets, which it differs from in size
        optim={"epochs": 200, "warmup_steps": 500, "learning_rate": 1e-3, "backbone_learning_rate": 1e-3},
        run={"precision": "bf16"},
    )


PRESETS: dict[str, Callable[[], Config]] = {
    "tsr": tsr,
    "tsr-tiny": tsr_tiny,
    "tsr-fast": tsr_fast,
    "tsr-large": tsr_large,
    "baseline": baseline,
    "dilation": dilation,
    "locator": locator,
    "tsr-nano": tsr_nano,
    "demo": demo,
}


def _require(rule: str, holds: Callable[[float], bool], section: Any, *names: str) -> None:
    """Raises ValueError with the flag of the first named field that is given and whose value does not hold."""
    for name in names:
        value = getattr(section, name)
        if value is not None and not holds(value):
            raise ValueError(f"--{name.replace('_', '-')} {value}: must be {rule}")


def _require_presets(flag: str, *names: str) -> None:
    """Raises ValueError unless there are presets of these names."""
    for name in names:
        if name not in PRESETS:
            raise ValueError(f"{flag} {name}: unknown; choose from {', '.join(PRESETS)}")


def _require_picture(output: Path) -> None:
    """Raises ValueError unless --output names a picture that can be drawn."""
    if output.suffix not in {".png", ".jpg"}:
        raise ValueError(f"--output {output}: the name must end in .png or .jpg")


def _require_kernels(diameters_px: tuple[int, int], flag: str) -> None:
    """Raises ValueError unless these are a least and a greatest kernel diameter: the time grows with their square."""
    if not 1 <= diameters_px[0] <= diameters_px[1] <= 500:
        raise ValueError(f"{flag}: give two diameters, 1 <= least <= greatest <= 500")


def _changed(config: Config, *, preset: str, **sections: dict[str, Any]) -> Config:
    """The config under another name, with the named fields of its sections replaced."""
    changed = {name: replace(getattr(config, name), **values) for name, values in sections.items()}
    run = replace(changed.get("run", config.run), run_dir=RUNS / preset)
    return replace(config, preset=preset, **{**changed, "run": run})


# ---------------------------------------------------------------------------------------------------- other scripts


@dataclass(frozen=True)
class EvalConfig:
    """eval.py."""

    checkpoint: Path | None = None  # default: the newest checkpoints/*/best.pth, or checkpoints/start/best.pth
    data_root: Path = Path(".")  # folder that holds the benchmarks' datasets, or is one of them
    benchmarks: tuple[str, ...] = ("DIS-TE1", "HRS10K")  # names of utils.layouts.BENCHMARKS; all: those that are there
    predictions: Path | None = None  # score the mattes in this folder instead of running a model
    ground_truth: Path | None = None  # with --predictions: the true mattes, paired by name
    trimaps: Path | None = None  # with --predictions: trimaps, paired by name; scores their unknown region as well
    images: Path | None = None  # with --predictions: photographs, paired by name; shown in the report
    out: Path = Path("eval_results")  # metrics.json, per_image.csv and report.html are written here
    metrics: tuple[Metric, ...] = ()  # default: all; HCE, 1-3 s an image, on DIS5K's benchmarks only
    unknown_region: bool = False  # score it as well where there are no trimaps: they are made from the true alphas
    trimap_kernel_px: int = 25  # of that: the certain regions are eroded by an ellipse of this diameter (P3M, GFM: 25)
    round_predictions: bool = False  # score predictions as 8-bit files would hold them (rounded, never floored)
    allow_missing: bool = False  # score the rest if images are missing or unusable; the counts are printed and stored
    resume: bool = False  # continue an interrupted evaluation in --out
    overwrite: bool = False  # replace the results in --out
    examples: int = 6  # pictures of the worst and of the best images in the report
    device: str = "auto"  # auto takes cuda if there is one; cuda without one is an error
    precision: Precision = "fp32"  # of the networks' arithmetic
    effort: EffortConfig = field(default_factory=EffortConfig)
    num_workers: int | None = None  # processes that score; one a CPU core if not given, 0: none but this one
    max_pixels: int = MAX_PIXELS  # refuse larger files before decoding them (decompression bombs)

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        self.effort.validate()
        if (self.predictions is None) != (self.ground_truth is None):
            raise ValueError("--predictions and --ground-truth go together: give both, or neither to run a model")
        if self.predictions is not None and self.checkpoint is not None:
            raise ValueError("--predictions contradicts --checkpoint: score finished mattes, or run a model")
        if self.predictions is not None and self.effort != EffortConfig():
            raise ValueError("--refine-budget, --max-patches, --memory-limit go with a model, not with --predictions")
        for flag, folder in (("--trimaps", self.trimaps), ("--images", self.images)):
            if folder is not None and self.predictions is None:
                raise ValueError(f"{flag} goes with --predictions; a benchmark's own are found by themselves")
        if self.trimaps is not None and self.unknown_region:
            raise ValueError("--unknown-region makes trimaps, --trimaps gives them: choose one of them")
        if not self.benchmarks:
            raise ValueError("--benchmarks: name at least one")
        if self.resume and self.overwrite:
            raise ValueError("--overwrite contradicts --resume: choose one of them")
        _require("at least 1", lambda v: v >= 1, self, "max_pixels")
        _require("from 1 to 500", lambda v: 1 <= v <= 500, self, "trimap_kernel_px")
        _require("0 or more", lambda v: v >= 0, self, "examples", "num_workers")


@dataclass(frozen=True)
class PredictConfig:
    """predict.py."""

    # images, folders of them (nested too), patterns such as "photos/**/*.jpg", videos
    inputs: tyro.conf.Positional[tuple[Path, ...]] = (Path("test_data"),)
    # .pth, .safetensors or .onnx; default: the newest checkpoints/*/best.pth, or checkpoints/start/best.pth
    checkpoint: Path | None = None
    output: Path = Path("test_results")  # folder for the results; the folders of the input are mirrored
    # any of alpha cutout foreground green white color:#RRGGBB blur image:PATH overlay trimap
    save: tuple[str, ...] = ("alpha", "cutout")
    format: Literal["png", "webp", "jpeg"] = "png"  # of the results; jpeg for what has no alpha
    alpha_bits: Literal[8, 16] = 8  # of --save alpha
    temporal: float = 0.0  # of a video: how much a frame's alpha is held to the one before, from 0 (off) to below 1
    overwrite: bool = False  # make results again that are already there
    device: str = "auto"  # auto takes cuda if there is one; cuda without one is an error
    precision: Precision = "fp32"  # of the networks' arithmetic
    effort: EffortConfig = field(default_factory=EffortConfig)
    max_pixels: int = MAX_PIXELS  # refuse larger files before decoding them (decompression bombs)
    info: Path | None = None  # print what a checkpoint or an exported model says of itself, and end

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        self.effort.validate()
        if not self.save:
            raise ValueError("--save: name at least one kind of result, such as alpha or cutout")
        _require("from 0 to below 1", lambda v: 0 <= v < 1, self, "temporal")
        _require("at least 1", lambda v: v >= 1, self, "max_pixels")


@dataclass(frozen=True)
class ExportConfig:
    """export_inference.py."""

    checkpoint: Path | None = None  # default: the newest checkpoints/*/best.pth, or checkpoints/start/best.pth
    output: tuple[Path, ...] = (Path("exports/tsr_matte.pth"), Path("exports/tsr_matte.safetensors"))  # by suffix
    dtype: Literal["float16", "float32"] = "float16"  # of the stored weights; in ONNX, of the arithmetic as well
    images: tuple[Path, ...] = ()  # compare on these photographs, or folders of them, instead of on embedded ones
    scores: tuple[Path, ...] = ()  # metrics.json of eval.py with scores of this checkpoint, for the model card
    licence: str = ""  # of data of your own, in a few words, for the model card

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        if not self.output:
            raise ValueError("--output: name at least one file")
        for path in self.output:
            if path.suffix not in {".pth", ".safetensors", ".onnx"}:
                raise ValueError(f"--output {path}: the name must end in .pth, .safetensors or .onnx")
            whole = path.name.removesuffix(".coarse.onnx").removesuffix(".refiner.onnx")
            if whole != path.name:
                raise ValueError(f"--output {path}: such are the names of parts; give {whole}.onnx")
        if self.checkpoint is not None and self.checkpoint.suffix == ".onnx":
            raise ValueError(f"--checkpoint {self.checkpoint} is an export: give the .pth it was made of")


@dataclass(frozen=True)
class PreprocessConfig:
    """preprocess_dis5k.py."""

    dataset: str = "DIS5K"  # or another name of utils.layouts.DATASETS, such as HRSOD, P3M-10K, custom
    source: Path | None = None  # the unpacked dataset, as published; default: the folder DATASET
    target: Path | None = None  # train/ val/ test/ are made here; default: DATASET_Flat
    splits: tuple[str, ...] = ()  # published sets to take, such as DIS-TR DIS-VD, or train, val, test; default: all
    link: bool = False  # hard-link instead of copying: instant, no disk space, same disk only; copies become links
    max_side: int | None = None  # px; shrink what is longer, with the area filter: to 8 bits, all but JPEG to PNG
    num_workers: int | None = None  # processes; one a CPU core if not given
    max_pixels: int = MAX_PIXELS  # refuse larger files before decoding them (decompression bombs)

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        if self.link and self.max_side is not None:
            raise ValueError("--link contradicts --max-side: a shrunken image is a new file; choose one of them")
        _require("at least 1", lambda v: v >= 1, self, "max_side", "num_workers", "max_pixels")


@dataclass(frozen=True)
class CheckConfig:
    """tools/check_data.py."""

    data_root: Path = Path(".")  # folder that holds the dataset, or is it
    dataset: str = "custom"  # a name of utils.layouts.DATASETS; 'custom' is any folder with train/ and val/ pairs
    splits: tuple[str, ...] = ()  # default: those of train, val and test that are there
    output: Path = Path("data_check")  # problems.csv and contact_sheet.png are written here
    on_bad: OnBad = "error"  # skip: say what training with --on-bad skip would use
    sheet_pairs: int = 30  # pairs on the contact sheet, those with a problem first
    recheck: bool = False  # read every file again, also those that have not changed since the last check
    num_workers: int | None = None  # threads that read; two a CPU core if not given
    max_pixels: int = MAX_PIXELS  # refuse larger files before decoding them (decompression bombs)

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        _require("at least 1", lambda v: v >= 1, self, "num_workers", "max_pixels")
        _require("0 or more", lambda v: v >= 0, self, "sheet_pairs")


@dataclass(frozen=True)
class SolveConfig:
    """tools/solve_foreground.py."""

    data_root: Path = Path(".")  # folder that holds the dataset, or is it
    dataset: str = "custom"  # a name of utils.layouts.DATASETS
    split: str = "train"  # a split of it
    output: Path = Path("foregrounds")  # NAME.png, RGB, one for each image
    backgrounds_output: Path | None = None  # the solved backgrounds as well
    method: ForegroundMethod = "blur-fusion"  # as training and prediction; multilevel is pymatting's
    overwrite: bool = False  # solve again what is there
    num_workers: int | None = None  # processes; one a CPU core if not given
    max_pixels: int = MAX_PIXELS  # refuse larger files before decoding them (decompression bombs)

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        _require("at least 1", lambda v: v >= 1, self, "num_workers", "max_pixels")


@dataclass(frozen=True)
class ComposeConfig:
    """tools/compose.py."""

    foregrounds: Path = Path("foregrounds")  # photographs or cut-outs of subjects
    alphas: Path | None = None  # their alphas, paired by name; default: the foregrounds' own A channel
    backgrounds: Path = Path("backgrounds")  # photographs without a subject
    output: Path = Path("composed")  # train/ and test/ are made here, each with im/ gt/ trimap/
    per_foreground: int = 20  # composites of each foreground, on as many backgrounds
    test_share: float = 0.0  # of foregrounds and of backgrounds, kept for test/ alone; 1: all
    solve: ForegroundMethod | Literal["none"] | None = None  # their colours; default: blur-fusion with --alphas
    trimap_kernel_px: tuple[int, int] = (3, 25)  # erosion of the certain regions: an ellipse of a random diameter
    image_format: Literal["png", "jpg"] = "png"  # of im/; jpg: quality 95, a quarter of the space
    max_side: int | None = None  # px; shrink longer foregrounds first, with the area filter
    contact_sheet: Path | None = None  # a PNG with the first composites
    seed: int = 0  # another seed is another set
    overwrite: bool = False  # make again what is there
    num_workers: int | None = None  # processes; one a CPU core if not given
    max_pixels: int = MAX_PIXELS  # refuse larger files before decoding them (decompression bombs)

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        if self.contact_sheet is not None and self.contact_sheet.suffix.lower() != ".png":
            raise ValueError(f"--contact-sheet {self.contact_sheet}: the name must end in .png")
        _require_kernels(self.trimap_kernel_px, "--trimap-kernel-px")
        _require("from 0 to 1", lambda v: 0 <= v <= 1, self, "test_share")
        _require("0 or more", lambda v: v >= 0, self, "seed")
        _require("at least 1", lambda v: v >= 1, self, "per_foreground", "max_side", "num_workers", "max_pixels")


@dataclass(frozen=True)
class TrimapConfig:
    """tools/make_trimaps.py."""

    alphas: Path = Path("gt")  # folder of alphas
    output: Path = Path("trimap")  # NAME.png of 0, 128 and 255, one for each alpha
    kernel_px: tuple[int, int] = (25, 25)  # least and greatest diameter of the eroding ellipse; (25, 25): as P3M
    seed: int = 0  # of the diameters, where the two differ
    overwrite: bool = False  # make again what is there
    num_workers: int | None = None  # processes; one a CPU core if not given
    max_pixels: int = MAX_PIXELS  # refuse larger files before decoding them (decompression bombs)

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        _require_kernels(self.kernel_px, "--kernel-px")
        _require("0 or more", lambda v: v >= 0, self, "seed")
        _require("at least 1", lambda v: v >= 1, self, "num_workers", "max_pixels")


@dataclass(frozen=True)
class EmbeddedConfig:
    """tools/make_embedded.py, and what `train.py demo` makes where there is none: utils.synthetic.write_embedded."""

    output: Path = Path("data/embedded")  # train/ and val/, each with im/ and gt/, are made here
    train: int = 1440  # pictures
    val: int = 48  # pictures
    long_side: tuple[int, int] = (240, 360)  # least and greatest longer side, px
    seed: int = 0  # another seed is another set
    workers: int | None = None  # processes; one a CPU core if not given
    contact_sheet: Path | None = None  # a PNG with the first pictures of both splits

    def pictures(self) -> dict[str, Any]:
        """Which pictures are made: arguments of utils.synthetic.write_embedded."""
        return {"train": self.train, "val": self.val, "long_side": self.long_side, "seed": self.seed}

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        if self.contact_sheet is not None and self.contact_sheet.suffix.lower() != ".png":
            raise ValueError(f"--contact-sheet {self.contact_sheet}: the name must end in .png")
        _require("at least 1", lambda v: v >= 1, self, "train", "val")


@dataclass(frozen=True)
class PreviewConfig:
    """tools/preview.py."""

    checkpoint: Path | None = None  # default: the newest checkpoints/*/best.pth, or checkpoints/start/best.pth
    dataset: str = "embedded"  # a name of utils.layouts.DATASETS
    data_root: Path = Path("data/embedded")  # folder that holds it
    split: str = "val"  # a split of it
    images: int = 5  # pictures of it
    show: Literal["even", "worst"] = "even"  # which: evenly spaced over the split, or those with the largest MAD
    output: Path = Path("preview.png")  # .png or .jpg
    device: str = "auto"  # auto takes cuda if there is one; cuda without one is an error
    max_pixels: int = MAX_PIXELS  # refuse larger files before decoding them (decompression bombs)

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        _require_picture(self.output)
        _require("at least 1", lambda v: v >= 1, self, "images", "max_pixels")


@dataclass(frozen=True)
class AppConfig:
    """tools/app.py."""

    # .pth, .safetensors or .onnx; default: the newest checkpoints/*/best.pth, or checkpoints/start/best.pth
    checkpoint: Path | None = None
    device: str = "auto"  # auto takes cuda if there is one; cuda without one is an error
    precision: Precision = "fp32"  # of the networks' arithmetic
    host: str = "127.0.0.1"  # this machine alone sees the page; 0.0.0.0: whoever can reach it
    port: int = 7860  # of the page's address
    share: bool = False  # a public address as well; photographs then go through gradio's servers
    max_pixels: int = MAX_PIXELS  # refuse larger files before decoding them (decompression bombs)

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        _require("from 1 to 65535", lambda v: 1 <= v <= 65535, self, "port")
        _require("at least 1", lambda v: v >= 1, self, "max_pixels")


@dataclass(frozen=True)
class MetricBenchmarkConfig:
    """tools/benchmark_metrics.py."""

    sides: tuple[int, ...] = (1024, 2048)  # of the square mattes that are scored, px
    repeats: int = 3  # the fastest counts
    images: int = 8  # scored by 1, 2 ... processes to see how they add up; 0: not at all

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        if not self.sides or min(self.sides) < 1:
            raise ValueError("--sides: give at least one length, in pixels")
        _require("at least 1", lambda v: v >= 1, self, "repeats")
        _require("0 or more", lambda v: v >= 0, self, "images")


@dataclass(frozen=True)
class LoaderBenchmarkConfig:
    """tools/benchmark_loader.py."""

    long_sides: tuple[int, ...] = (4000, 1536)  # px, of the 4:3 photographs that are made to be read; 4000: 12 MP
    data_root: Path | None = None  # read these instead
    dataset: str = "custom"  # with --data-root: a name of utils.layouts.DATASETS; its training set is read
    image_size: int = 1024  # px, of the samples
    samples: int = 24  # read for each number, after one that is not counted
    workers: tuple[int, ...] = (1, 2)  # loader processes to try

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        if self.data_root is None and (not self.long_sides or min(self.long_sides) < 4):
            raise ValueError("--long-sides: give at least one length, in pixels")
        if self.data_root is None and self.dataset != "custom":
            raise ValueError(f"--dataset {self.dataset} has no effect without --data-root: give both")
        if not self.workers or min(self.workers) < 1:
            raise ValueError("--workers: give numbers of processes, each at least 1")
        if self.image_size < 32 or self.image_size % 32:
            raise ValueError(f"--image-size {self.image_size}: must be a multiple of 32")
        _require("at least 1", lambda v: v >= 1, self, "samples")


@dataclass(frozen=True)
class ForegroundBenchmarkConfig:
    """tools/benchmark_foreground.py."""

    methods: tuple[Literal["pymatting", "multilevel", "blur-fusion", "foreground"], ...] = ("multilevel", "blur-fusion")
    pictures: int = 18  # at most; of the embedded ones none is of the training set
    long_side: int = 640  # px; embedded pictures are 4:3, mattes keep their shape
    alphas: Path | None = None  # folder of mattes: compose pictures of these instead of embedded ones
    foregrounds: Path | None = None  # folder of true colours, of the mattes' names, or of any photographs
    backgrounds: Path | None = None  # folder of photographs
    repeats: int = 1  # the fastest counts
    threads: int = 1  # of torch and OpenCV
    device: str = "cpu"  # of the method foreground; auto takes cuda if there is one

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        if not self.methods:
            raise ValueError("--methods: name at least one")
        if len({folder is None for folder in (self.alphas, self.foregrounds, self.backgrounds)}) > 1:
            raise ValueError("--alphas, --foregrounds, --backgrounds: give all three, or none for embedded pictures")
        _require("at least 1", lambda v: v >= 1, self, "pictures", "repeats", "threads")
        _require("at least 4", lambda v: v >= 4, self, "long_side")


@dataclass(frozen=True)
class CostStudyConfig:
    """tools/study_cost.py."""

    checkpoint: Path = RUNS / "demo" / "best.pth"  # whose coarse stage is kept
    dataset: str = "embedded"  # a name of utils.layouts.DATASETS
    data_root: Path = Path("data/embedded")  # folder that holds it
    candidates: tuple[str, ...] = ("64x2", "64x1", "32x2", "32x1", "16x2", "16x1")  # channels x blocks
    steps: int = 1500  # of training, 8 pictures each
    crop_px: int = 128  # side of the squares at native resolution
    learning_rate: float = 2e-3  # peak, of AdamW
    images: int = 48  # held-out pictures that are scored
    device: str = "auto"  # auto takes cuda if there is one; cuda without one is an error
    out: Path | None = None  # study_cost.json is written here

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        for name in self.candidates:
            parts = name.split("x")
            if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts) or int(parts[0]) % 4:
                raise ValueError(f"--candidates {name}: give CHANNELSxBLOCKS, such as 64x2, channels a multiple of 4")
        if not self.candidates:
            raise ValueError("--candidates: name at least one")
        _require("at least 1", lambda v: v >= 1, self, "steps", "images")
        _require("a multiple of 2, at least 8", lambda v: v >= 8 and v % 2 == 0, self, "crop_px")
        _require("above 0", lambda v: 0 < v < inf, self, "learning_rate")


@dataclass(frozen=True)
class StudyConfig:
    """tools/study.py."""

    data_roots: tuple[Path, ...] = (Path("data/embedded"),)  # each with train/ and val/; the embedded data is made
    preset: str = "demo"  # of train.py: what all arms have in common
    arms: tuple[str, ...] = ()  # of utils.strategies.ARMS; all of them if none is named
    seeds: tuple[int, ...] = (0, 1, 2)
    samples: int = 4800  # pictures that each network sees, in whole epochs of at least one
    budget: float | None = None  # minutes; what is under way then is saved, and the same command goes on with it
    jobs: int = 1  # trainings beside each other, which share the CPU cores
    runs: Path = RUNS / "study"  # a folder for each network
    out: Path = Path("results")  # study.json and study.md
    figures: Path = Path("figures")  # tsr_compare.png, of the first seed, study_bands.png and study_convergence.png
    device: str = "auto"  # auto takes cuda if there is one; cuda without one is an error

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        _require_presets("--preset", self.preset)
        names = [root.name for root in self.data_roots]
        for flag, values in (("--data-roots", names), ("--seeds", self.seeds), ("--arms", self.arms)):
            if (flag != "--arms" and not values) or len({*values}) < len(values):
                raise ValueError(
                    f"{flag}: name at least one, and none twice (folders go by the last part of their path)"
                )
        _require("at least 1", lambda v: v >= 1, self, "samples", "jobs")
        _require("above 0", lambda v: v > 0, self, "budget")


@dataclass(frozen=True)
class RefinementStudyConfig:
    """tools/study_refinement.py."""

    checkpoint: Path | None = None  # default: the newest checkpoints/*/best.pth, or checkpoints/start/best.pth
    rival: Path | None = None  # what refines at rival_side; default: the checkpoint itself
    dataset: str = "custom"  # a name of utils.layouts.DATASETS
    data_root: Path = Path("data")  # folder that holds it
    split: str = "val"  # a split of it
    images: int | None = None  # pictures, evenly spaced over the split; all of them if not given
    long_sides: tuple[int, ...] = (1024, 2048, 4096)  # the pictures are resized to, px
    rival_side: int = 1024  # px, at which the rival refines, to be compared at the long sides above it
    crop: str | None = None  # picture to show a part of; the one where the two differ most if not given
    out: Path = Path("refinement")  # tables and pictures are written here
    device: str = "auto"  # auto takes cuda if there is one; cuda without one is an error
    max_pixels: int = MAX_PIXELS  # refuse larger files before decoding them (decompression bombs)

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        if not self.long_sides or min(self.long_sides) < 64:
            raise ValueError("--long-sides: name at least one, of 64 px or more")
        _require("at least 1", lambda v: v >= 1, self, "images", "max_pixels")
        _require("at least 64", lambda v: v >= 64, self, "rival_side")


@dataclass(frozen=True)
class BenchmarkConfig:
    """tools/benchmark.py."""

    presets: tuple[str, ...] = ("tsr-fast", "tsr-tiny", "tsr")  # of train.py; their networks, with random weights
    sizes: tuple[str, ...] = ("1024x1024", "2048x2048", "3840x2160")  # of the photographs, WIDTHxHEIGHT px
    precisions: tuple[Precision, ...] = ("fp32",)  # of the networks' arithmetic
    dense: bool = False  # refine everything, too, beside only what is routed
    device: str = "auto"  # auto takes cuda if there is one; cuda without one is an error
    threads: int | None = None  # of the CPU; one a core if not given
    seconds: float = 5.0  # to time each case for, at least; and at least three calls
    out: Path | None = None  # benchmark.json and benchmark.png are written here

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        _require_presets("--presets", *self.presets)
        for size in self.sizes:
            sides = size.split("x")
            if len(sides) != 2 or not all(side.isdecimal() and int(side) >= 1 for side in sides):
                raise ValueError(f"--sizes {size}: give WIDTHxHEIGHT in pixels, such as 3840x2160")
        for flag, values in (("presets", self.presets), ("sizes", self.sizes), ("precisions", self.precisions)):
            if not values:
                raise ValueError(f"--{flag}: name at least one")
        _require("above 0", lambda v: 0 < v < inf, self, "seconds")
        _require("at least 1", lambda v: v >= 1, self, "threads")


@dataclass(frozen=True)
class ArchitectureConfig:
    """tools/architecture.py."""

    preset: str = "tsr"  # of train.py: whose network is drawn
    output: Path = Path("figures/tsr_architecture.png")  # .png or .jpg

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        _require_presets("--preset", self.preset)
        _require_picture(self.output)


@dataclass(frozen=True)
class CurvesConfig:
    """tools/curves.py."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()  # run folders
    output: Path = Path("curves.png")  # .png or .jpg

    def validate(self) -> None:
        """Raises ValueError, one line with the flag and the remedy."""
        if not self.runs:
            raise ValueError("RUN: name at least one run folder, such as checkpoints/demo")
        _require_picture(self.output)


# ---------------------------------------------------------------------------------------------------- command lines


def parse_train(argv: list[str] | None = None) -> Config:
    """`train.py [PRESET] [--flag value ...]` to a valid Config; exits with status 2 and one line otherwise."""
    argv = sys.argv[1:] if argv is None else argv
    name, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("tsr", argv)
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        _fail(f"unknown preset {name!r}: {hint}presets are {', '.join(PRESETS)}")
    presets = "\n".join(f"  {key:<10} {make.__doc__}" for key, make in PRESETS.items())
    description = (
        f"Train TSR-Matte.\n\npresets (first argument; default tsr):\n{presets}\n\ndefaults below are {name}'s."
    )
    return parse_cli(Config, prog=f"train.py {name}", description=description, argv=rest, default=PRESETS[name]())


def parse_cli(
    cls: type[T], *, prog: str, description: str, argv: list[str] | None = None, default: T | None = None
) -> T:
    """A command line to a valid instance of `cls`; flags are the bare field names of all sections.

    Args:
        cls: A frozen dataclass, with sections or without; its `validate`, if any, is called.
        prog: Name shown in the usage.
        description: Text above the flags.
        argv: Arguments without the program's name; None takes the process's.
        default: Values of what is not given; None takes the dataclass's.

    Raises:
        SystemExit: Status 2 after one line on stderr for a wrong command line; 0 after --help.
    """
    argv = sys.argv[1:] if argv is None else argv
    default = cls() if default is None else default
    _check_flags(argv, dict(_flags(default)), prog)
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            parsed = tyro.cli(
                cls, prog=prog, description=description, args=argv, default=default, config=(tyro.conf.OmitArgPrefixes,)
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        _fail(f"{_unboxed(boxed.getvalue())} ({prog} --help lists the flags)")
    try:
        if hasattr(parsed, "validate"):
            parsed.validate()
    except ValueError as error:
        _fail(str(error))
    return parsed


def _flags(config: Any) -> Iterator[tuple[str, Any]]:
    """Flags with the types of their fields."""
    for each in fields(config):
        value = getattr(config, each.name)
        if is_dataclass(value):
            yield from _flags(value)
        elif each.type != tyro.conf.Suppress[str]:  # the name of a training preset is no flag of its own
            flag = each.name.replace("_", "-")
            yield f"--{flag}", each.type
            if isinstance(value, bool):
                yield f"--no-{flag}", each.type


def _check_flags(argv: list[str], known: dict[str, Any], prog: str) -> None:
    known, given = {**known, "--help": None}, set()
    for before, argument in zip(["", *argv], argv, strict=False):
        flag = argument.split("=")[0].replace("_", "-")
        if not argument:
            _fail(f"{before if before in known else 'an argument'} is empty, as a variable is that is not set")
        if flag in given and get_args(known[flag])[-1:] == (...,):
            _fail(f"{flag} is given twice, and what the first says would be lost: give it once, with all its values")
        if flag in known:
            given.add(flag)
        if re.match("-[^-0-9]", argument) and argument != "-h":
            _fail(f"{argument}: if that is a file, write ./{argument} ({prog} --help lists the flags)")
        if flag.startswith("--") and flag not in known:
            near = difflib.get_close_matches(flag, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            _fail(f"unknown option {argument.split('=')[0]}: {hint}({prog} --help lists the flags)")


def _unboxed(message: str) -> str:
    """The first paragraph of tyro's framed error message, as one line."""
    lines = [line.strip("│ ") for line in message.splitlines() if not line.startswith(("╭", "╰"))]
    ruler = next((i for i, line in enumerate(lines) if line.startswith("───")), len(lines))
    return " ".join(lines[:ruler]).strip() or message.strip()


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)
