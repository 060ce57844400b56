"""utils.inference: training's validation, eval, predict and export give one picture one alpha."""

import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eval as eval_script
import export_inference
import predict as predict_script
from models.patches import enlarge
from models.routing import choose_patches
from utils import evaluation, inference
from utils.checkpoint import DESCRIPTION, FORMAT, load_checkpoint, save_checkpoint
from utils.distributed import Processes
from utils.encoding import write_image
from utils.errors import UserError
from utils.evaluation import predictions
from utils.images import MAX_PIXELS, quantise, read_alpha
from utils.inference import Predictor, load_model, newest_best, predict, predict_alpha, select_device
from utils.interruption import Interruption
from utils.pairs import Pair
from utils.transforms import Preprocess
from utils.validation import Validation, merge_shares, validate

SIZES = [(1, 1), (1, 7), (33, 97), (160, 160), (641, 427), (1537, 1023)]  # width, height
TOLERANCE = 1e-5


def largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.dtype == b.dtype == np.float32 and a.shape == b.shape
    return float(np.abs(a - b).max())


@pytest.fixture(scope="module")
def pictures(make_pair: Callable) -> dict[str, np.ndarray]:
    """Name to rgb, a picture of every size."""
    return {f"{width}x{height}": make_pair(height, width)[0] for width, height in SIZES}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, make_pair: Callable) -> list[Pair]:
    """The same as files."""
    folder, pairs = tmp_path_factory.mktemp("custom") / "test", []
    for width, height in SIZES:
        name, (rgb, alpha) = f"{width}x{height}", make_pair(height, width)
        pair = Pair(name, folder / "im" / f"{name}.png", folder / "gt" / f"{name}.png")
        write_image(pair.image, rgb)
        write_image(pair.alpha, alpha)
        pairs.append(pair)
    return pairs


@pytest.fixture(scope="module")
def alphas(predictor: Predictor, pictures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `predict_alpha` says: the reference of this file."""
    return {name: predict_alpha(predictor, rgb) for name, rgb in pictures.items()}


def test_alphas_have_the_size_of_the_picture(alphas: dict[str, np.ndarray]) -> None:
    for width, height in SIZES:
        alpha = alphas[f"{width}x{height}"]
        assert alpha.shape == (height, width) and alpha.dtype == np.float32
        assert np.isfinite(alpha).all() and alpha.min() >= 0 and alpha.max() <= 1


def test_the_refiner_works_where_it_is_routed_to_and_nowhere_else(
    predictor: Predictor, pictures: dict[str, np.ndarray]
) -> None:
    """Otherwise the tests below would compare the coarse stage only."""
    output = predict(predictor, pictures["1537x1023"])
    patches = choose_patches(output.error_logits, (1023, 1537), predictor.routing, predictor.network.refiner.work)
    inside = torch.zeros(1, 1, 1023, 1537, dtype=torch.bool)
    for side, _, corner in patches:
        for top, left in corner.tolist():
            inside[..., top : top + side, left : left + side] = True
    assert len(patches) > 1 and 0.02 < inside.float().mean() < 0.5
    refined, coarse = output.refined_logits, enlarge(output.coarse_logits, (1023, 1537))
    assert torch.equal(refined[~inside], coarse[~inside])
    assert (refined - coarse)[inside].abs().mean() > 0.1
    assert coarse.std() > 0.1


def test_all_that_has_the_native_size_is_the_refined_alpha(predictor: Predictor, pictures: dict) -> None:
    output = predict(predictor, pictures["1537x1023"])
    assert output.coarse_logits.shape == output.error_logits.shape == (1, 1, 64, 64)
    assert output.refined_logits.shape == (1, 1, 1023, 1537)
    assert {logits.dtype for logits in output[:3]} == {torch.float32}


def test_patches_change_no_pixel_that_they_refine(predictor: Predictor, pictures: dict, alphas: dict) -> None:
    """Routed and dense refinement agree in every pixel that routing refines."""
    dense = predict_alpha(replace(predictor, routing=predictor.routing.everything()), pictures["641x427"])
    coarse = predict_alpha(replace(predictor, routing=replace(predictor.routing, max_patches=0)), pictures["641x427"])
    routed = alphas["641x427"]
    refined = routed != coarse
    assert 0.02 < refined.mean() < 0.9
    assert largest_difference(routed[refined], dense[refined]) <= TOLERANCE
    assert largest_difference(dense[~refined], coarse[~refined]) > 0.01


def test_a_second_call_gives_the_same_bits(predictor: Predictor, pictures: dict, alphas: dict) -> None:
    again = predict_alpha(predictor, pictures["641x427"])
    assert np.array_equal(again, alphas["641x427"])


def test_validation_gives_the_same_alpha(predictor: Predictor, pairs: list[Pair], alphas: dict, pictures: dict) -> None:
    read = list(predictions(predictor, pairs, num_workers=0, max_pixels=MAX_PIXELS, title="test"))
    assert [item.name for item in read] == list(alphas)
    for item in read:
        assert np.array_equal(item.rgb, pictures[item.name])
        assert largest_difference(item.pred_alpha(), alphas[item.name]) <= TOLERANCE
    assert np.abs(read[-1].pred_alpha("coarse") - alphas["1537x1023"]).max() > 0.05


class ShortOfMemory:
    """A network's predictions that fit only where one patch at a time is refined, and never for a height."""

    def __init__(self, patch: pytest.MonkeyPatch, never: int | None = None) -> None:
        self.original, self.never, self.tried = inference.predict, never, []
        for module in (inference, evaluation):
            patch.setattr(module, "predict", self)

    def __call__(self, predictor: Predictor, rgb: np.ndarray) -> Any:
        self.tried.append(predictor.routing.batch_px)
        if self.tried[-1] > 1 or len(rgb) == self.never:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.original(predictor, rgb)


def test_validation_survives_a_lack_of_memory(
    predictor: Predictor, pairs: list[Pair], alphas: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ShortOfMemory(monkeypatch)
    for item in predictions(predictor, pairs[-2:], num_workers=0, max_pixels=MAX_PIXELS, title="test"):
        assert largest_difference(item.pred_alpha(), alphas[item.name]) <= TOLERANCE
    assert short.tried == 2 * [predictor.routing.batch_px, predictor.routing.batch_px // 8, 1]
    ShortOfMemory(monkeypatch, never=1023)
    with pytest.raises(UserError, match=r"^1537x1023: too large for the memory"):
        list(predictions(predictor, pairs[-1:], num_workers=0, max_pixels=MAX_PIXELS, title="test"))


@pytest.mark.parametrize("never", [None, 97])
def test_eval_survives_a_lack_of_memory(
    run: Callable, checkpoint: Path, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch, never: int | None
) -> None:
    ShortOfMemory(monkeypatch, never)
    finished = run(
        eval_script.main, "--checkpoint", checkpoint, "--data-root", pairs[0].image.parents[2], "--benchmarks",
        "custom/test", "--out", "scores", "--num-workers", 0, "--metrics", "SAD", "--precision", "fp32",
    )  # fmt: skip
    assert finished.status == (0 if never is None else 2)
    assert never is None or ("33x97.png: too large for the memory" in finished.err and "--resume" in finished.err)


def test_the_rows_of_a_preview_do_not_depend_on_the_number_of_processes(
    predictor: Predictor, pairs: list[Pair]
) -> None:
    def found_by(processes: int) -> Validation:
        worlds = [Processes(rank, processes, predictor.device) for rank in range(processes)]
        reading = {"previews": 4, "num_workers": 0, "max_pixels": MAX_PIXELS, "interruption": Interruption()}
        return merge_shares([validate(predictor, pairs, **reading, world=world) for world in worlds], worlds[0])

    alone, together = found_by(1), found_by(3)
    assert [row["name"] for row in together.scores.per_image] == [pair.name for pair in pairs]
    assert len(alone.previews) == 4
    assert [preview.sad for preview in together.previews] == [preview.sad for preview in alone.previews]


def test_predict_writes_the_same_alpha(run: Callable, checkpoint: Path, pairs: list[Pair], alphas: dict) -> None:
    finished = run(
        predict_script.main, pairs[0].image.parent, "--checkpoint", checkpoint, "--output", "out", "--save", "alpha"
    )
    assert finished.status == 0, finished.err
    for name, alpha in alphas.items():
        written = np.rint(255 * read_alpha(Path("out") / f"{name}_alpha.png")).astype(np.int16)
        exact = 255 * alpha.astype(np.float64)
        assert np.abs(written - exact).max() <= 0.5 + 255 * TOLERANCE
        assert np.mean(written == quantise(alpha)) > 0.999


def test_eval_scores_the_same_alpha(run: Callable, checkpoint: Path, pairs: list[Pair], alphas: dict) -> None:
    root = pairs[0].image.parents[2]
    finished = run(
        eval_script.main, "--checkpoint", checkpoint, "--data-root", root, "--benchmarks", "Custom",
        "--out", "scores", "--num-workers", 0,
    )  # fmt: skip
    assert finished.status == 0, finished.err
    rows = [line.split(",") for line in Path("scores/per_image.csv").read_text().splitlines()]
    column = rows[0].index("SAD")
    by_name = {row[0]: float(row[column]) for row in rows[1:]}
    for pair in pairs:
        expected = np.abs(alphas[pair.name].astype(np.float64) - read_alpha(pair.alpha)).sum() / 1000
        assert by_name[pair.name] == pytest.approx(expected, rel=1e-4)


def exported(run: Callable, checkpoint: Path, small: Path, *arguments: Any) -> tuple[list[Path], str]:
    """Exports to both formats, checked on one small picture."""
    outputs = ("--output", "m.pth", "m.safetensors")
    finished = run(export_inference.main, "--checkpoint", checkpoint, *outputs, "--images", small, *arguments)
    assert finished.status == 0, finished.err
    return [Path("m.pth").absolute(), Path("m.safetensors").absolute()], finished.out


def test_a_float32_export_gives_the_same_alpha(
    run: Callable, checkpoint: Path, pairs: list[Pair], pictures: dict, alphas: dict
) -> None:
    paths, _ = exported(run, checkpoint, pairs[2].image, "--dtype", "float32")
    for path in paths:
        predictor = load_model(path)
        for name, rgb in pictures.items():
            assert largest_difference(predict_alpha(predictor, rgb), alphas[name]) <= TOLERANCE


def test_a_float16_export_is_half_the_size_and_nearly_equal(
    run: Callable, checkpoint: Path, pairs: list[Pair], pictures: dict, alphas: dict
) -> None:
    paths, out = exported(run, checkpoint, pairs[2].image)
    largest = 0.0
    for path in paths:
        assert path.stat().st_size < 0.6 * checkpoint.stat().st_size
        assert str(path.name) in out and "difference" in out and "MB" in out
        predictor = load_model(path)
        for name in ("33x97", "160x160", "641x427"):
            largest = max(largest, largest_difference(predict_alpha(predictor, pictures[name]), alphas[name]))
    assert 0 < largest < 2e-2


def test_an_export_holds_nothing_of_training(
    run: Callable, tmp_path: Path, checkpoint_state: dict[str, Any], pairs: list[Pair]
) -> None:
    full = {"format": FORMAT, **checkpoint_state, "optimizer": {"a": torch.zeros(9)}, "alignment": {}, "step": 3}
    torch.save(full, tmp_path / "last.pth")
    paths, _ = exported(run, tmp_path / "last.pth", pairs[2].image)
    for path in paths:
        state = load_checkpoint(path)
        assert set(state) == {*DESCRIPTION, "model"}
        assert {t.dtype for t in state["model"].values() if t.is_floating_point()} == {
            torch.float16,
            torch.float32,
        }  # norms, biases and the first layer are kept


@pytest.mark.parametrize("wrong", [{"mean": (0.5, 0.5, 0.5)}, {"std": (1.0, 1.0, 1.0)}, {"image_size": 96}])
def test_wrong_preprocessing_would_be_noticed(
    predictor: Predictor, pictures: dict, alphas: dict, wrong: dict[str, Any]
) -> None:
    other = replace(predictor, preprocess=replace(predictor.preprocess, **wrong))
    assert largest_difference(predict_alpha(other, pictures["641x427"]), alphas["641x427"]) > 100 * TOLERANCE


def test_bf16_is_close_and_still_float32_outside(predictor: Predictor, pictures: dict, alphas: dict) -> None:
    alpha = predict_alpha(replace(predictor, precision="bf16"), pictures["160x160"])
    assert largest_difference(alpha, alphas["160x160"]) < 0.1


# ------------------------------------------------------------------------------------------------- devices, defaults


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:99"])
def test_cuda_without_one_is_an_error(name: str, checkpoint: Path) -> None:
    with pytest.raises(UserError, match=rf"--device {name}: .*--device cpu"):
        select_device(name)
    with pytest.raises(UserError, match="--device"):
        load_model(checkpoint, device=name)


@pytest.mark.parametrize("name", ["gpu", "", "cpu:banana", "meta", "mps", "xpu"])
def test_other_devices_are_errors(name: str) -> None:
    with pytest.raises(UserError, match="--device"):
        select_device(name)


def test_auto_takes_what_there_is() -> None:
    assert select_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert select_device("cpu") == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_alpha(checkpoint: Path, pictures: dict, alphas: dict) -> None:
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        alpha = predict_alpha(load_model(checkpoint, device="cuda"), pictures["641x427"])
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    assert largest_difference(alpha, alphas["641x427"]) < 1e-3


def test_the_newest_best_checkpoint_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that comes with the code is the last resort, though a checkout may have made it the newest."""
    runs = tmp_path / "checkpoints"
    for age, run_name in enumerate(["start", "newer", "older"]):
        path = runs / run_name / "best.pth"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    monkeypatch.setattr(inference, "START", runs / "start" / "best.pth")
    monkeypatch.chdir(tmp_path)
    assert newest_best(Path("checkpoints")) == Path("checkpoints/newer/best.pth")
    for run_name in ("newer", "older"):
        (runs / run_name / "best.pth").unlink()
    assert newest_best(Path("checkpoints")) == newest_best(tmp_path / "nowhere") == runs / "start" / "best.pth"
    (runs / "start" / "best.pth").unlink()
    with pytest.raises(UserError, match=r"--checkpoint"):
        newest_best(tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------------- aspect ratio


@pytest.mark.parametrize(("height", "width", "coarse"), [(180, 320, (64, 128)), (320, 180, (128, 64))])
def test_kept_proportions_give_a_coarse_stage_of_that_shape(
    predictor: Predictor, make_pair: Callable, height: int, width: int, coarse: tuple[int, int]
) -> None:
    """16:9, for which 72 px of 128 are the nearest to 64, a multiple of 32."""
    kept = replace(predictor, preprocess=replace(predictor.preprocess, image_size=128, keep_aspect=True))
    output = predict(kept, make_pair(height, width)[0])
    assert output.coarse_logits.shape == output.error_logits.shape == (1, 1, *coarse)
    assert output.refined_logits.shape == (1, 1, height, width)
    assert torch.isfinite(output.refined_logits).all()
    enlarged = enlarge(output.coarse_logits, (height, width))
    refined = output.refined_logits != enlarged
    assert 0.01 < refined.float().mean() < 1, "the rest is the coarse stage's, where it belongs"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_kept_proportions_survive_a_checkpoint(
    checkpoint_state: dict[str, Any], make_pair: Callable, tmp_path: Path, suffix: str
) -> None:
    preprocess = Preprocess(96, keep_aspect=True)
    save_checkpoint(tmp_path / f"kept{suffix}", {**checkpoint_state, "preprocess": asdict(preprocess)})
    loaded = load_model(tmp_path / f"kept{suffix}")
    assert loaded.preprocess.coarse_size(90, 160) == (64, 96)
    rgb, _ = make_pair(90, 160)
    predicted = predict(loaded, rgb)
    assert predicted.coarse_logits.shape == (1, 1, 64, 96)
    again = predict(replace(loaded, preprocess=preprocess), rgb)
    assert torch.equal(predicted.refined_logits, again.refined_logits)


def test_what_is_no_photograph_is_refused(predictor: Predictor, make_pair: Callable, checkpoint: Path) -> None:
    rgb = make_pair(40, 50)[0]
    for wrong in (rgb[..., 0], rgb / 255, np.zeros((0, 5, 3), np.uint8), "photo.jpg"):
        with pytest.raises(UserError, match=r"uint8 \(H, W, 3\) or a PIL image is expected, not "):
            predict_alpha(predictor, wrong)
    for mode in ("I", "I;16", "F"):  # Pillow clips those
        with pytest.raises(UserError, match=f"mode {mode} has more than 8 bits"):
            predict_alpha(predictor, Image.new(mode, (8, 8)))
    with pytest.raises(UserError, match=r"fp64.*fp16"):
        load_model(checkpoint, precision="fp64")


def test_an_array_that_cannot_be_written_to_is_no_reason_to_warn(predictor: Predictor, make_pair: Callable) -> None:
    rgb = np.asarray(Image.fromarray(make_pair(40, 50)[0]))
    assert not rgb.flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict_alpha(predictor, rgb)


def test_a_pil_image_is_predicted_as_a_viewer_shows_it(predictor: Predictor, make_pair: Callable) -> None:
    rgb = make_pair(40, 50)[0]
    expected = predict_alpha(predictor, rgb)
    assert np.array_equal(predict_alpha(predictor, Image.fromarray(rgb)), expected)
    assert np.array_equal(predict_alpha(predictor, Image.fromarray(rgb).convert("RGBA")), expected)
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(rgb)))
    lying.getexif()[0x0112] = 6
    assert np.array_equal(predict_alpha(predictor, lying), expected)
