"""config: what presets mean, that every section fits its callee, and one line for every wrong command line."""

import inspect
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from config import (
    PRESETS,
    AugmentConfig,
    Backbone,
    CheckConfig,
    ComposeConfig,
    CompositionConfig,
    Config,
    EffortConfig,
    EvalConfig,
    ExportConfig,
    LoaderBenchmarkConfig,
    LossConfig,
    ModelConfig,
    PredictConfig,
    PreprocessConfig,
    RoutingConfig,
    SolveConfig,
    TeacherConfig,
    TrimapConfig,
    parse_cli,
    parse_train,
)
from models import BACKBONES, MattingOutput, Routing, TSRMatte
from utils.backgrounds import NewBackgrounds
from utils.errors import UserError
from utils.inference import Predictor, with_effort
from utils.layouts import BENCHMARKS, DATASETS
from utils.losses import MattingLoss
from utils.transforms import TrainTransform

SECTIONS = [field.name for field in fields(Config) if field.name != "preset"]
OTHERS: dict[str, type] = {
    "eval.py": EvalConfig,
    "predict.py": PredictConfig,
    "export_inference.py": ExportConfig,
    "preprocess_dis5k.py": PreprocessConfig,
    "check_data": CheckConfig,
    "solve_foreground": SolveConfig,
    "compose": ComposeConfig,
    "make_trimaps": TrimapConfig,
    "benchmark_loader": LoaderBenchmarkConfig,
}


def parse_other(script: str, argv: list[str]) -> Any:
    return parse_cli(OTHERS[script], prog=script, description="", argv=argv)


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refusal(parse, *args)` expects exit status 2 with one line on stderr and nothing on stdout; returns the line."""

    def refusal(parse: Callable[..., Any], *arguments: Any) -> str:
        with pytest.raises(SystemExit) as stop:
            parse(*arguments)
        out, err = capsys.readouterr()
        assert stop.value.code == 2
        assert out == "" and err.endswith("\n") and err.count("\n") == 1, err
        assert err.startswith("error: ")
        return err.strip()

    return refusal


def differences(a: Config, b: Config) -> set[str]:
    """Names of the fields in which two configs differ, but for what every preset has of its own."""
    first, second = asdict(a), asdict(b)
    names = {f"{s}.{name}" for s in SECTIONS for name in first[s] if first[s][name] != second[s][name]}
    return names - {"run.run_dir"}


# ------------------------------------------------------------------------------------------------- presets


def test_presets_are_the_agreed_ones() -> None:
    agreed = {"tsr", "tsr-tiny", "tsr-fast", "tsr-large", "tsr-nano", "baseline", "dilation", "locator", "demo"}
    assert set(PRESETS) == agreed


def test_the_flag_offers_every_backbone() -> None:
    assert get_args(Backbone) == tuple(BACKBONES)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_has_its_own_folder(name: str) -> None:
    config = PRESETS[name]()
    config.validate()
    assert config.preset == name
    assert config.run.run_dir == Path("checkpoints") / name
    assert config.data.dataset.lower() in {dataset.lower() for dataset in DATASETS}
    assert config.model.backbone in BACKBONES
    assert PRESETS[name].__doc__
    assert parse_train([name]) == config


def test_no_argument_is_the_whole_method() -> None:
    config = parse_train([])
    assert config == PRESETS["tsr"]()
    assert (config.model.backbone, config.data.dataset, config.data.image_size) == ("base", "DIS5K", 1024)
    assert config.model.refiner and config.model.pretrained and config.teacher.teacher == "cnn"
    assert config.data.dilate_px == 0


def test_the_three_strategies() -> None:
    tsr, baseline, dilation = (PRESETS[name]() for name in ("tsr", "baseline", "dilation"))
    assert not baseline.model.refiner and baseline.teacher.teacher == "none"
    assert differences(tsr, baseline) == {"model.refiner", "teacher.teacher", "loss.error_weight"}
    assert differences(baseline, dilation) == {"data.dilate_px"}
    assert dilation.data.dilate_px > 0


def test_sizes_of_the_method() -> None:
    tsr, tiny, fast, large = (PRESETS[name]() for name in ("tsr", "tsr-tiny", "tsr-fast", "tsr-large"))
    assert [config.model.backbone for config in (tiny, fast, large)] == ["tiny", "tiny", "large"]
    assert fast.data.image_size < tiny.data.image_size and fast.model.refiner
    batches = {config.optim.batch_size * config.optim.accumulation_steps for config in (tsr, tiny, fast, large)}
    assert len(batches) == 1, "the learning rate is for this batch"


def test_the_locator_is_trained_by_the_structure_loss_only() -> None:
    config = PRESETS["locator"]()
    assert config.data.dataset == "COD10K" and not config.model.refiner
    logits = torch.zeros(1, 1, 8, 8)
    loss = MattingLoss(**{**asdict(config.loss), "refined_weight": 0.0})  # as train.py does without a refiner
    terms = loss(MattingOutput(logits, logits, logits, ()), torch.ones(1, 1, 8, 8))
    assert set(terms) == {"coarse_structure", "total"}


def test_the_demo_needs_no_download_and_little_memory() -> None:
    config = PRESETS["demo"]()
    assert config.model.backbone == "nano" and not config.model.pretrained
    assert config.data.dataset == "embedded" and config.run.precision == "fp32"
    assert config.model.refiner and config.teacher.teacher != "none", "the whole method"


@pytest.mark.parametrize("name", PRESETS)
def test_windows_fit_the_deepest_map(name: str) -> None:
    config = PRESETS[name]()
    assert config.data.image_size // 32 % config.model.window_size == 0


# ------------------------------------------------------------------------------------------------- sections and callees


@pytest.mark.parametrize(
    ("section", "callee", "given_by_the_script"),
    [
        (ModelConfig, TSRMatte, set()),
        (RoutingConfig, Routing, set()),
        (EffortConfig, with_effort, {"predictor"}),
        (LossConfig, MattingLoss, set()),
        (AugmentConfig, TrainTransform, {"image_size", "dilate_px", "halo_px"}),
        (CompositionConfig, NewBackgrounds, {"max_pixels"}),
    ],
)
def test_a_section_is_the_arguments_of_its_callee(section: type, callee: type, given_by_the_script: set[str]) -> None:
    parameters = inspect.signature(callee).parameters
    assert {field.name for field in fields(section)} == set(parameters) - given_by_the_script


def test_sections_build_what_they_are_for() -> None:
    config = PRESETS["demo"]()
    TSRMatte(**asdict(config.model))
    Routing(**asdict(config.routing))
    MattingLoss(**asdict(config.loss))
    TrainTransform(config.data.image_size, dilate_px=config.data.dilate_px, **asdict(config.augment))


def test_field_names_are_unique_across_sections() -> None:
    """Flags are bare field names."""
    names = [field.name for section in SECTIONS for field in fields(getattr(PRESETS["tsr"](), section))]
    assert len(names) == len(set(names))


def test_every_section_is_frozen() -> None:
    config = PRESETS["tsr"]()
    for section in (config, *(getattr(config, name) for name in SECTIONS), *(cls() for cls in OTHERS.values())):
        assert is_dataclass(section) and section.__dataclass_params__.frozen


def test_default_benchmarks_exist() -> None:
    assert EvalConfig().benchmarks == ("DIS-TE1", "HRS10K")
    assert set(EvalConfig().benchmarks) <= set(BENCHMARKS)
    assert PredictConfig().inputs == (Path("test_data"),) and PredictConfig().output == Path("test_results")


# ------------------------------------------------------------------------------------------------- flags


def test_flags_are_bare_field_names_of_all_sections() -> None:
    flags = (
        "--batch-size 3 --data-root /d --dataset custom --run-dir r --epochs 2 --device cpu --keep-aspect "
        "--teacher swin --l1-weight 0.5 --patch-px 64 --crop-scale 0.5 0.9 --seed=7"
    )
    config = parse_train(["demo", *flags.split(" ")])
    assert (config.optim.batch_size, config.optim.epochs, config.run.seed) == (3, 2, 7)
    assert (config.data.data_root, config.data.dataset, config.run.run_dir) == (Path("/d"), "custom", Path("r"))
    assert (config.run.device, config.data.keep_aspect, config.teacher.teacher) == ("cpu", True, "swin")
    assert (config.loss.l1_weight, config.routing.patch_px, config.augment.crop_scale) == (0.5, 64, (0.5, 0.9))
    changed = {
        "optim.batch_size", "optim.epochs", "run.seed", "data.data_root", "data.dataset", "run.device",
        "data.keep_aspect", "teacher.teacher", "loss.l1_weight", "routing.patch_px", "augment.crop_scale",
    }  # fmt: skip
    assert differences(config, PRESETS["demo"]()) == changed


@pytest.mark.parametrize("value", [True, False])
def test_switches_have_two_names(value: bool) -> None:
    argv = ["tsr", "--refiner" if value else "--no-refiner", "--resume" if value else "--no-resume"]
    config = parse_train(argv)
    assert (config.model.refiner, config.run.resume) == (value, value)


@pytest.mark.parametrize("script", OTHERS)
def test_other_scripts_have_defaults(script: str) -> None:
    assert parse_other(script, []) == OTHERS[script]()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["a.jpg", "--save", "alpha", "--save", "green"], "--save is given twice"),
        (["-dash.jpg"], "./-dash.jpg"),
        (["a.jpg", ""], "an argument is empty"),
        (["a.jpg", "--output", ""], "--output is empty"),
    ],
)
def test_what_would_be_lost_or_misread_is_refused(argv: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse_other("predict.py", argv)
    assert words in capsys.readouterr().err


def test_lists_are_read() -> None:
    config = parse_other("predict.py", ["a.jpg", "b", "--save", "alpha", "--output", "o", "--overwrite"])
    assert config.inputs == (Path("a.jpg"), Path("b")) and config.save == ("alpha",) and config.overwrite
    assert parse_other("eval.py", ["--benchmarks", "DIS-TE2", "UHRSD"]).benchmarks == ("DIS-TE2", "UHRSD")


def every_flag(config: Any) -> list[str]:
    flags = []
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            flags += every_flag(value)
        elif field.name not in {"preset", "inputs"}:
            flags.append("--" + field.name.replace("_", "-"))
    return flags


@pytest.mark.parametrize("argv", [["--help"], ["demo", "--help"], ["locator", "-h"]])
def test_train_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_train(argv)
    out, err = capsys.readouterr()
    assert stop.value.code in (0, None) and err == ""
    for word in [*every_flag(PRESETS["tsr"]()), *PRESETS]:
        assert word in out, word
    assert "--preset" not in out


@pytest.mark.parametrize("script", OTHERS)
def test_help_of_the_other_scripts(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_other(script, ["--help"])
    out, err = capsys.readouterr()
    assert stop.value.code in (0, None) and err == ""
    for flag in every_flag(OTHERS[script]()):
        assert flag in out, flag


# ------------------------------------------------------------------------------------------------- wrong use


@pytest.mark.parametrize(
    ("argv", "nearest"),
    [
        (["--batchsize", "4"], "--batch-size"),
        (["demo", "--epoch", "4"], "--epochs"),
        (["--learning_rates=1"], "--learning-rate"),
        (["--no-refine"], "--no-refiner"),
        (["tsr-huge"], "tsr-large"),
        (["dem", "--epochs", "1"], "demo"),
    ],
)
def test_an_unknown_option_names_the_nearest(refusal: Callable[..., str], argv: list[str], nearest: str) -> None:
    line = refusal(parse_train, argv)
    assert "did you mean" in line and nearest in line
    assert argv[0 if argv[0] != "demo" else 1].split("=")[0] in line


def test_an_option_unlike_any_is_named(refusal: Callable[..., str]) -> None:
    assert "--xyzzy" in refusal(parse_train, ["--xyzzy", "4"])
    line = refusal(parse_train, ["quux"])
    assert "quux" in line and all(name in line for name in PRESETS)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--batch-size", "four"], "--batch-size"),
        (["--batch-size"], "--batch-size"),
        (["--backbone", "resnet"], "--backbone"),
        (["--teacher", "resnet"], "--teacher"),
        (["--precision", "fp8"], "--precision"),
        (["--crop-scale", "0.5"], "--crop-scale"),
        (["demo", "--epochs", "1", "leftover"], "leftover"),
        (["--epochs", "1", "demo"], "demo"),
    ],
)
def test_a_mistyped_value_is_named(refusal: Callable[..., str], argv: list[str], named: str) -> None:
    assert named in refusal(parse_train, argv)


CONTRADICTIONS = [
    "--backbone nano",
    "--no-pretrained --backbone-weights a.pth",
    "--image-size 1000",
    "--image-size 0",
    "--image-size -32",
    "--refiner-width 6",
    "--decoder-width 33",
    "--teacher none --teacher-checkpoint t.pth",
    "--crop-scale 0.9 0.5",
    "--crop-scale 0 1",
    "--crop-scale 0.5 1.5",
    "--crop-ratio 2 1",
    "--coarse-weight 0 --refined-weight 0",
    "--l1-weight -1",
    "--l1-weight nan",
    "--l1-weight inf",
    "--error-weight -0.5",
    "--batch-size 0",
    "--accumulation-steps 0",
    "--epochs 0",
    "--epochs -1",
    "--validate-every 0",
    "--num-workers -1",
    "--dilate-px -1",
    "--learning-rate 0",
    "--learning-rate nan",
    "--backbone-learning-rate -1",
    "--weight-decay -0.1",
    "--warmup-steps -5",
    "--clip-norm 0",
    "--patch-px 0",
    "--patch-px 33",
    "--largest-px 0",
    "--largest-px 16",
    "--largest-px 96",
    "--largest-px 100",
    "--refine-budget 1.1",
    "--refine-budget -0.1",
    "--refine-budget nan",
    "--max-patches -1",
    "--native-crops 0",
    "--native-px 6",
    "--native-px 65",
    "--native-zoom 0.5 2",
    "--native-zoom 4 2",
    "--native-zoom 1 inf",
    "--native-on-edge 1.5",
    "--native-on-edge -0.1",
    "--batch-px 0",
    "--window-size 0",
    "--refiner-blocks 0",
    "--teacher-width 0",
    "--teacher-epochs -1",
    "--max-pixels 0",
    "--previews -1",
    "--brightness -0.1",
    "--contrast 1.5",
    "--saturation -1",
    "--flip-probability 1.5",
    "--flip-probability -0.1",
    "--blur-probability 2",
    "--blur-px -1",
    "--noise-std inf",
    "--jpeg-quality 90 40",
    "--jpeg-quality 0 40",
    "--foregrounds f",
    "--extra-subject-probability 0.9",
    "--background-probability 0.9",
    "--background-probability 0 --backgrounds b",
    "--background-probability 1.1",
    "--extra-subject-probability -0.1",
    "--on-bad ignore",
    "--drop-path-rate 1",
    "--drop-path-rate -0.1",
    "--error-threshold -0.1",
    "--error-threshold 1.5",
]


@pytest.mark.parametrize("flags", CONTRADICTIONS)
def test_a_contradiction_is_one_line_before_any_work(refusal: Callable[..., str], flags: str) -> None:
    line = refusal(parse_train, flags.split())
    assert flags.split()[0] in line and "unknown option" not in line


def test_the_largest_patch_is_the_smallest_doubled_some_times(refusal: Callable[..., str]) -> None:
    for patch_px, largest_px in ((32, 32), (48, 384), (2, 1024)):
        routing = parse_train(["--patch-px", str(patch_px), "--largest-px", str(largest_px)]).routing
        assert (routing.patch_px, routing.largest_px) == (patch_px, largest_px)
    line = refusal(parse_train, ["--patch-px", "48"])
    assert "--largest-px" in line and "--patch-px 48" in line


def test_losses_that_leave_nothing_to_train_are_refused(refusal: Callable[..., str]) -> None:
    terms = ("l1", "gradient", "laplacian", "ssim", "structure")
    line = refusal(parse_train, [each for term in terms for each in (f"--{term}-weight", "0")])
    assert "every matte loss is switched off" in line
    # Without a refiner the refined weight has nothing to weigh.
    assert "no output is supervised" in refusal(parse_train, ["baseline", "--coarse-weight", "0"])


OF_REFINER = {
    "--error-threshold": "0.1", "--refine-budget": "0.5", "--max-patches": "8", "--patch-px": "64",
    "--largest-px": "64", "--batch-px": "4096",
    "--native-crops": "8", "--native-px": "128", "--native-zoom": "1 2", "--native-on-edge": "0.5",
    "--refiner-width": "24", "--refiner-blocks": "3", "--refined-weight": "3", "--error-weight": "3",
}  # fmt: skip
OF_TEACHER = {
    "--teacher-width": "64", "--teacher-epochs": "9", "--teacher-learning-rate": "0.1", "--teacher-warmup-steps": "9",
    "--alignment-weight": "2",
}  # fmt: skip


@pytest.mark.parametrize("preset", ["tsr --no-refiner", "demo --no-refiner", "baseline", "locator"])
def test_settings_of_the_refiner_need_one(refusal: Callable[..., str], preset: str) -> None:
    names = {field.name for section in (RoutingConfig, AugmentConfig) for field in fields(section)}
    common = {"flip", "crop", "brightness", "contrast", "saturation", "blur", "noise", "jpeg"}
    names |= {"refiner_width", "refiner_blocks", "refined_weight", "error_weight"}
    assert {flag[2:].replace("-", "_") for flag in OF_REFINER} == {n for n in names if n.split("_")[0] not in common}
    parse_train(preset.split())  # a preset's own values are no mistake of the user's
    for flag, value in OF_REFINER.items():
        line = refusal(parse_train, [*preset.split(), flag, *value.split()])
        assert flag in line and "without a refiner" in line and "--refiner" in line
    parse_train(["tsr", *(word for flag, value in OF_REFINER.items() for word in (flag, *value.split()))])


@pytest.mark.parametrize("preset", ["tsr --teacher none", "demo --teacher none", "baseline", "locator"])
def test_settings_of_the_teacher_need_one(refusal: Callable[..., str], preset: str) -> None:
    own = {flag[2:].replace("-", "_") for flag in OF_TEACHER} | {"teacher", "teacher_checkpoint"}
    assert own == {field.name for field in fields(TeacherConfig)} | {"alignment_weight"}
    parse_train(preset.split())
    for flag, value in OF_TEACHER.items():
        line = refusal(parse_train, [*preset.split(), flag, value])
        assert flag in line and "without a teacher" in line and "--teacher" in line
    parse_train(["tsr", *(word for pair in OF_TEACHER.items() for word in pair)])


def test_the_weight_0_says_that_a_loss_is_none() -> None:
    off = ["--refined-weight", "0", "--error-weight", "0", "--alignment-weight", "0"]
    assert parse_train(["tsr", "--no-refiner", "--teacher", "none", *off]).loss.error_weight == 0


@pytest.mark.parametrize(
    "flags",
    [
        "--teacher swin --teacher-width 64",
        "--freeze encoder --layer-decay 0.8",
        "--freeze encoder --backbone-learning-rate 1e-3",
        "--freeze coarse --init-from x.pth --teacher none --layer-decay 0.8",
    ],
)
def test_settings_of_what_is_not_trained_are_refused(refusal: Callable[..., str], flags: str) -> None:
    line = refusal(parse_train, flags.split())
    assert flags.split()[-2] in line and "has no effect" in line and flags.split()[0] in line


@pytest.mark.parametrize("bound", [{"refine_budget": 0.5}, {"max_patches": 0}, {"memory_limit": 1.0}])
def test_bounds_on_refinement_need_a_refiner(
    predictor: Predictor, make_network: Callable[..., TSRMatte], bound: dict[str, Any]
) -> None:
    coarse = replace(predictor, network=make_network(refiner=False))
    with pytest.raises(
        UserError, match="--refine-budget, --max-patches, --memory-limit: the checkpoint has no refiner"
    ):
        with_effort(coarse, **bound)
    assert with_effort(coarse, **asdict(EffortConfig())) == coarse
    unbound = replace(predictor, routing=replace(predictor.routing, batch_px=10**9))
    assert with_effort(unbound, **bound).routing != unbound.routing


def test_no_patches_at_all_may_be_asked_for() -> None:
    assert parse_train(["--max-patches", "0"]).routing.max_patches == 0
    assert parse_other("predict.py", ["a.jpg", "--max-patches", "0"]).effort.max_patches == 0


@pytest.mark.parametrize(
    ("script", "flags", "named"),
    [
        ("eval.py", "--predictions p", "--ground-truth"),
        ("eval.py", "--ground-truth g", "--predictions"),
        ("eval.py", "--predictions p --ground-truth g --checkpoint c.pth", "--checkpoint"),
        ("eval.py", "--benchmarks", "--benchmarks"),
        ("eval.py", "--num-workers -1", "--num-workers"),
        ("eval.py", "--max-pixels 0", "--max-pixels"),
        ("eval.py", "--checkpiont c.pth", "--checkpoint"),
        ("eval.py", "--refine-budget 1.5", "--refine-budget"),
        ("eval.py", "--memory-limit 0", "--memory-limit"),
        ("predict.py", "a.jpg --refine-budget -0.1", "--refine-budget"),
        ("predict.py", "a.jpg --max-patches -1", "--max-patches"),
        ("predict.py", "a.jpg --memory-limit nan", "--memory-limit"),
        ("predict.py", "a.jpg --format gif", "--format"),
        ("predict.py", "a.jpg --save", "--save"),
        ("predict.py", "a.jpg --max-pixels 0", "--max-pixels"),
        ("predict.py", "a.jpg --overwrit", "--overwrite"),
        ("export_inference.py", "--output a.onxx", "--output"),
        ("export_inference.py", "--output", "--output"),
        ("export_inference.py", "--dtype int8", "--dtype"),
        ("preprocess_dis5k.py", "--num-workers 0", "--num-workers"),
        ("preprocess_dis5k.py", "--sorce d", "--source"),
        ("preprocess_dis5k.py", "--max-side 100 --link", "--link"),
        ("preprocess_dis5k.py", "--max-side 0", "--max-side"),
        ("check_data", "--sheet-pairs -1", "--sheet-pairs"),
        ("check_data", "--on-bad warn", "--on-bad"),
        ("solve_foreground", "--method closed-form", "--method"),
        ("solve_foreground", "--num-workers 0", "--num-workers"),
        ("compose", "--test-share 1.5", "--test-share"),
        ("compose", "--per-foreground 0", "--per-foreground"),
        ("compose", "--trimap-kernel-px 9 3", "--trimap-kernel-px"),
        ("compose", "--contact-sheet a.jpg", "--contact-sheet"),
        ("make_trimaps", "--kernel-px 0 3", "--kernel-px"),
        ("make_trimaps", "--kernel-px 5000 5000", "--kernel-px"),
        ("benchmark_loader", "--image-size 100", "--image-size"),
        ("benchmark_loader", "--workers 0", "--workers"),
        ("benchmark_loader", "--dataset HRSOD", "--data-root"),
    ],
)
def test_wrong_use_of_the_other_scripts(refusal: Callable[..., str], script: str, flags: str, named: str) -> None:
    assert named in refusal(parse_other, script, flags.split())


def test_a_valid_config_stays_valid_when_its_parts_are_replaced() -> None:
    """`validate` looks at the values, not at where they came from."""
    config = PRESETS["tsr"]()
    with pytest.raises(ValueError, match="--image-size"):
        replace(config, data=replace(config.data, image_size=100)).validate()
