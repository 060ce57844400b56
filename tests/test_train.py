"""Training: the whole gradient path learns, a resume repeats nothing and loses nothing, wrong use stops at the door."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from training import same, tiny

import train
from utils import trainer
from utils.checkpoint import load_checkpoint
from utils.errors import UserError
from utils.synthetic import write_embedded

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Five training and three validation pairs, below 100 px."""
    root = tmp_path_factory.mktemp("pictures")
    write_embedded(root, train=5, val=3, long_side=(72, 96), workers=1)
    return root


def run(monkeypatch, *arguments: object, preset: str = "demo") -> int:
    """train.py in this process; what it raises is what a user would read."""
    monkeypatch.setattr("sys.argv", ["train.py", *tiny(*arguments, preset=preset)])
    return train.main()


def test_four_pairs_are_learnt_by_heart(monkeypatch, tmp_path):
    """Student, teacher alignment, error head and refiner together: SAD falls below a tenth of its start."""
    root = tmp_path / "data"
    write_embedded(root, train=4, val=1, long_side=(64, 64), workers=1)
    shutil.rmtree(root / "val")
    shutil.copytree(root / "train", root / "val")
    run(monkeypatch, "--dataset", "custom", "--data-root", root, "--run-dir", tmp_path / "run", "--epochs", 150,
        "--batch-size", 4, "--learning-rate", 3e-3, "--backbone-learning-rate", 3e-3, "--flip-probability", 0,
        "--crop-scale", 1, 1, "--crop-ratio", 1, 1, "--brightness", 0, "--contrast", 0, "--saturation", 0,
        "--validate-every", 50, "--teacher-epochs", 10, "--error-threshold", 0.02)  # fmt: skip
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    validation = pd.read_csv(tmp_path / "run" / "validation.csv")
    start = initial_sad(root, tmp_path / "untrained", monkeypatch)
    assert validation["SAD"].iloc[-1] < 0.1 * start
    assert log["total"].iloc[-1] < 0.3 * log["total"].iloc[0]
    assert log["alignment"].iloc[-1] < log["alignment"].iloc[0]


def initial_sad(root: Path, folder: Path, monkeypatch) -> float:
    """SAD of the network as it is born: one step at a learning rate of almost nothing."""
    run(monkeypatch, "--dataset", "custom", "--data-root", root, "--run-dir", folder, "--epochs", 1,
        "--learning-rate", 1e-12, "--backbone-learning-rate", 0, "--teacher-epochs", 0)  # fmt: skip
    return float(pd.read_csv(folder / "validation.csv")["SAD"].iloc[0])


def test_workers_change_nothing(monkeypatch, tmp_path, pictures):
    for workers in (0, 2):
        run(monkeypatch, "--data-root", pictures, "--dataset", "custom", "--epochs", 1, "--teacher-epochs", 0,
            "--num-workers", workers, "--run-dir", tmp_path / str(workers))  # fmt: skip
    assert same(*(load_checkpoint(tmp_path / str(n) / "last.pth")["model"] for n in (0, 2)))


def test_accumulated_batches_equal_one_large_batch(monkeypatch, tmp_path, pictures):
    """Five images: 4 + 1 either way, so the last, smaller step is compared too."""
    for name, sizes in {"large": (4, 1), "small": (2, 2), "single": (1, 4)}.items():
        run(monkeypatch, "--data-root", pictures, "--dataset", "custom", "--epochs", 1, "--teacher-epochs", 0,
            "--batch-size", sizes[0], "--accumulation-steps", sizes[1],
            "--learning-rate", 1e-12, "--backbone-learning-rate", 0,  # the weights stay, the gradients are compared
            "--run-dir", tmp_path / name)  # fmt: skip
    large, small, single = (load_checkpoint(tmp_path / name / "last.pth") for name in ("large", "small", "single"))
    assert [each["training"]["step"] for each in (large, small, single)] == [2, 2, 2]
    for other in (small, single):  # first moments are 0.1 * second + 0.09 * first gradient
        for index, state in large["training"]["optimizer"]["state"].items():
            torch.testing.assert_close(
                other["training"]["optimizer"]["state"][index]["exp_avg"], state["exp_avg"], rtol=1e-3, atol=1e-7
            )


@pytest.mark.parametrize(
    ("preset", "extra"),
    [("baseline", []), ("dilation", ["--dilate-px", 2]), ("locator", []), ("tsr", ["--teacher", "swin"]), ("tsr", [])],
)
def test_presets_train_and_validate(monkeypatch, tmp_path, pictures, preset, extra):
    status = run(
        monkeypatch, "--data-root", pictures, "--dataset", "custom", "--backbone", "nano", "--no-pretrained",
        "--epochs", 1, "--batch-size", 4, "--teacher-epochs", 1, "--run-dir", tmp_path / "run", *extra, preset=preset,
    )  # fmt: skip
    assert status == 0
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    terms = {column for column in log.columns if column.startswith(("coarse_", "refined_"))}
    if preset == "locator":
        assert terms == {"coarse_structure"}
    else:
        assert ("refined_l1" in terms) == (preset == "tsr")
    assert ("alignment" in log.columns) == (preset == "tsr") == (tmp_path / "run" / "teacher.pth").exists()
    for name in ("best.pth", "curves.png", "previews/epoch_001.png", "config.json"):
        assert (tmp_path / "run" / name).stat().st_size > 0


def test_teacher_learns_and_is_taken_over(monkeypatch, tmp_path, pictures):
    common = ["--data-root", pictures, "--dataset", "custom", "--epochs", 1]
    run(monkeypatch, *common, "--teacher-epochs", 30, "--teacher-learning-rate", 1e-2, "--run-dir", tmp_path / "a")
    errors = pd.read_csv(tmp_path / "a" / "teacher.csv")["reconstruction_MAD"]
    assert errors.iloc[-1] < 0.5 * errors.iloc[0]
    run(monkeypatch, *common, "--teacher-checkpoint", tmp_path / "a" / "teacher.pth", "--run-dir", tmp_path / "b")
    assert not (tmp_path / "b" / "teacher.csv").exists()
    assert same(*(load_checkpoint(tmp_path / name / "teacher.pth")["model"] for name in "ab"))
    with pytest.raises(UserError, match="not a teacher"):
        run(monkeypatch, *common, "--teacher-checkpoint", tmp_path / "a" / "best.pth", "--run-dir", tmp_path / "c")


def test_steps_that_are_not_finite_are_dropped_and_their_files_named(monkeypatch, tmp_path, pictures, capsys):
    """One in a row is survived; the rows say how many, dropped.csv and the screen say which files."""
    loss, calls = train.MattingLoss.__call__, []

    def poisoned(self, *arguments):
        terms = loss(self, *arguments)
        calls.append(1)
        return terms if len(calls) != 2 else {name: term * float("nan") for name, term in terms.items()}

    monkeypatch.setattr(train.MattingLoss, "__call__", poisoned)
    common = ["--data-root", pictures, "--dataset", "custom", "--teacher-epochs", 0, "--epochs", 1, "--batch-size", 2]
    run(monkeypatch, *common, "--log-every", 1, "--max-dropped-steps", 2, "--run-dir", tmp_path / "run")
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["dropped_steps"].tolist() == [0, 1, 0]
    assert log["total"].isna().tolist() == [False, True, False]
    dropped = pd.read_csv(tmp_path / "run" / "dropped.csv")
    assert dropped["step"].tolist() == [2]
    (files,) = dropped["files"]
    assert len(files.split("; ")) == 2 and all(name in capsys.readouterr().out for name in [files.split("; ")[0]])
    weights = load_checkpoint(tmp_path / "run" / "best.pth")["model"]
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_many_steps_in_a_row_that_are_not_finite_end_the_run(monkeypatch, tmp_path, pictures):
    loss = train.MattingLoss.__call__

    def poisoned(self, *arguments):
        return {name: term * float("nan") for name, term in loss(self, *arguments).items()}

    monkeypatch.setattr(train.MattingLoss, "__call__", poisoned)
    names = [path.stem for path in (pictures / "train" / "im").iterdir()]
    with pytest.raises(UserError, match="3 steps in a row were dropped") as error:
        run(monkeypatch, "--data-root", pictures, "--dataset", "custom", "--teacher-epochs", 0, "--batch-size", 8,
            "--epochs", 5, "--max-dropped-steps", 3, "--run-dir", tmp_path / "run")  # fmt: skip
    assert sum(name in str(error.value) for name in names) >= 3
    assert load_checkpoint(tmp_path / "run" / "last.pth")["training"]["dropped_in_a_row"] == 2


def test_run_folders_are_never_overwritten(monkeypatch, tmp_path, pictures):
    common = ["--data-root", pictures, "--dataset", "custom", "--epochs", 1, "--teacher-epochs", 0]
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="--resume: no checkpoint"):
        run(monkeypatch, *common, "--run-dir", folder, "--resume")
    assert not folder.exists()
    run(monkeypatch, *common, "--run-dir", folder)

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}

    before = times()
    with pytest.raises(UserError, match="holds a run already"):
        run(monkeypatch, *common, "--run-dir", folder)
    with pytest.raises(UserError, match=r"--learning-rate 0\.002 -> 0\.5"):
        run(monkeypatch, *common, "--run-dir", folder, "--resume", "--learning-rate", 0.5)
    assert run(monkeypatch, *common, "--run-dir", folder, "--resume") == 0  # all epochs are done
    assert times() == before


def test_damaged_picture_stops_before_anything_is_made(monkeypatch, tmp_path, pictures):
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    victim = sorted((root / "train" / "im").iterdir())[2]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    with pytest.raises(UserError, match=victim.name):
        run(monkeypatch, "--data-root", root, "--dataset", "custom", "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_sizes_that_differ_stop_before_anything_is_made(monkeypatch, tmp_path, pictures):
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    victim = sorted((root / "val" / "gt").iterdir())[0]
    Image.new("L", (10, 10)).save(victim)
    with pytest.raises(UserError, match=victim.stem):
        run(monkeypatch, "--data-root", root, "--dataset", "custom", "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_on_the_rest_says_what_is_left_out(monkeypatch, tmp_path, pictures, capsys):
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    truncated, lonely = sorted((root / "train" / "im").iterdir())[:2]
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])
    next((root / "train" / "gt").glob(f"{lonely.stem}.*")).unlink()
    Image.new("L", (10, 10)).save(root / "val" / "gt" / "extra.png")
    common = ["--data-root", root, "--dataset", "custom", "--epochs", 1, "--teacher-epochs", 0]
    with pytest.raises(UserError, match=r"1 truncated, 1 no-alpha, 1 no-image.*--on-bad skip"):
        run(monkeypatch, *common, "--run-dir", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert run(monkeypatch, *common, "--run-dir", tmp_path / "run", "--on-bad", "skip") == 0
    assert "3 training and 3 validation images" in capsys.readouterr().out
    listed = pd.read_csv(tmp_path / "run" / "problems.csv")
    assert dict(zip(listed.name, listed.kind, strict=True)) == {
        truncated.stem: "truncated", lonely.stem: "no-alpha", "extra": "no-image"
    }  # fmt: skip


def test_doubtful_mattes_are_a_warning(monkeypatch, tmp_path, pictures, capsys):
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    victim = sorted((root / "train" / "gt").iterdir())[0]
    with Image.open(victim) as alpha:
        Image.new("L", alpha.size, 255).save(victim)
    run(monkeypatch, "--data-root", root, "--dataset", "custom", "--epochs", 1, "--teacher-epochs", 0,
        "--run-dir", tmp_path / "run")  # fmt: skip
    out = capsys.readouterr().out
    assert f"train/{victim.stem}" in out and "constant" in out and "5 training" in out


def test_new_backgrounds_are_trained_on_and_belong_to_the_run(monkeypatch, tmp_path, pictures):
    backgrounds = tmp_path / "backgrounds"
    backgrounds.mkdir()
    for level in (60, 120, 180):
        Image.new("RGB", (90, 70), (level, 90, 200 - level)).save(backgrounds / f"{level}.png")
    common = ["--data-root", pictures, "--dataset", "custom", "--epochs", 2, "--teacher-epochs", 0, "--run-dir"]
    composing = ["--backgrounds", backgrounds, "--background-probability", 1, "--extra-subject-probability", 0.5]
    seen = []
    batches = trainer.whole_batches

    def noted(loader):
        for batch in batches(loader):
            seen.extend(batch.name)
            yield batch

    monkeypatch.setattr(trainer, "whole_batches", noted)
    run(monkeypatch, *common, tmp_path / "whole", *composing)
    assert len(seen) == 10 and all(" on " in name for name in seen)
    monkeypatch.setattr(train, "validate", stop)
    with pytest.raises(Stop):
        run(monkeypatch, *common, tmp_path / "run", *composing)
    next(backgrounds.iterdir()).unlink()
    with pytest.raises(UserError, match="other pictures"):
        run(monkeypatch, *common, tmp_path / "run", *composing, "--resume")


def test_backgrounds_and_foregrounds_are_checked_before_anything_is_made(monkeypatch, tmp_path, pictures):
    common = ["--data-root", pictures, "--dataset", "custom", "--run-dir", tmp_path / "run", "--backgrounds"]
    with pytest.raises(UserError, match=r"--backgrounds .*3 are images of the dataset"):
        run(monkeypatch, *common, pictures / "val" / "im")
    Image.new("RGB", (90, 70)).save(tmp_path / "place.png")
    (tmp_path / "places").mkdir()
    (tmp_path / "place.png").rename(tmp_path / "places" / "place.png")
    solved = tmp_path / "solved"
    common += [tmp_path / "places", "--foregrounds", solved]
    shutil.copytree(tmp_path / "places", solved)
    with pytest.raises(UserError, match=r"--foregrounds .*5 of 5 are missing.*solve_foreground"):
        run(monkeypatch, *common)
    shutil.rmtree(solved)
    shutil.copytree(pictures / "train" / "im", solved)
    first, second = sorted(solved.iterdir())[:2]
    Image.new("RGB", (9, 9)).save(second)
    with pytest.raises(UserError, match=rf"--foregrounds .*1 of 5 cannot be used: .*{second.name} is 9x9"):
        run(monkeypatch, *common)
    first.write_bytes(first.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"--foregrounds .*1 of 5 cannot be used: .*{first.name}.*truncated"):
        run(monkeypatch, *common)
    assert not (tmp_path / "run").exists()


def test_a_test_set_never_stands_in_for_a_published_validation_set(monkeypatch, tmp_path, pictures):
    for part in ("DIS-TR", "DIS-TE1", "DIS-TE2", "DIS-TE3", "DIS-TE4"):
        shutil.copytree(pictures / "val", tmp_path / "DIS5K" / part)
    with pytest.raises(UserError, match="no DIS5K val images"):
        run(monkeypatch, "--data-root", tmp_path / "DIS5K", "--dataset", "DIS5K", "--run-dir", tmp_path / "run")


def test_without_val_a_custom_test_set_is_used_and_that_is_said(monkeypatch, tmp_path, pictures, capsys):
    shutil.copytree(pictures, tmp_path / "data")
    (tmp_path / "data" / "val").rename(tmp_path / "data" / "test")
    monkeypatch.setattr(train.Trainer, "train_epoch", stop)
    with pytest.raises(Stop):
        run(monkeypatch, "--data-root", tmp_path / "data", "--dataset", "custom", "--run-dir", tmp_path / "run",
            "--teacher-epochs", 0)  # fmt: skip
    assert "no val/, so a best checkpoint is chosen on test/" in capsys.readouterr().out


def test_four_real_photographs_are_learnt_by_heart(monkeypatch, tmp_path):
    """The same on photographs, at the default routing."""
    source = Path(__file__).parents[2] / "shared" / "data" / "real" / "train"
    if not source.is_dir():
        pytest.skip(f"no real photographs at {source}")
    names = ["leaf_train_830", "leaf_train_344", "davis_blackswan_00000", "davis_car-shadow_00014"]
    for split in ("train", "val"):
        for folder, suffix, mode in (("im", ".jpg", "RGB"), ("gt", ".png", "L")):
            (tmp_path / "data" / split / folder).mkdir(parents=True)
            for name in names:
                with Image.open(source / folder / f"{name}{suffix}") as image:
                    small = image.convert(mode).resize((96, 64), Image.Resampling.BOX)
                small.save(tmp_path / "data" / split / folder / f"{name}.png")
    run(monkeypatch, "--dataset", "custom", "--data-root", tmp_path / "data", "--run-dir", tmp_path / "run",
        "--epochs", 150, "--batch-size", 4, "--learning-rate", 3e-3, "--backbone-learning-rate", 3e-3,
        "--flip-probability", 0, "--crop-scale", 1, 1, "--crop-ratio", 1, 1, "--brightness", 0, "--contrast", 0,
        "--saturation", 0, "--validate-every", 150, "--teacher-epochs", 10)  # fmt: skip
    start = initial_sad(tmp_path / "data", tmp_path / "untrained", monkeypatch)
    assert pd.read_csv(tmp_path / "run" / "validation.csv")["SAD"].iloc[-1] < 0.1 * start


def test_leftovers_of_a_killed_start_do_not_lock_the_folder(monkeypatch, tmp_path, pictures):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / ".12-34.tmp").write_bytes(b"half")
    common = ["--data-root", pictures, "--dataset", "custom", "--epochs", 1, "--teacher-epochs", 0, "--run-dir"]
    assert run(monkeypatch, *common, folder) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        run(monkeypatch, *common, tmp_path / "mine")


def test_a_run_without_a_best_checkpoint_has_one_status_however_often_it_is_asked(monkeypatch, tmp_path, pictures):
    """A job queue would take the run for done."""
    validate = train.validate

    def never_finite(*arguments, **options):
        found = validate(*arguments, **options)
        found.scores[:] = [each._replace(values=dict.fromkeys(each.values, float("nan"))) for each in found.scores]
        return found

    monkeypatch.setattr(train, "validate", never_finite)
    common = ["--data-root", pictures, "--dataset", "custom", "--epochs", 1, "--teacher-epochs", 0, "--auto-resume"]
    for _ in range(2):
        assert run(monkeypatch, *common, "--run-dir", tmp_path / "run") == 1
    assert not (tmp_path / "run" / "best.pth").exists()


def test_resume_on_other_pictures_is_refused(monkeypatch, tmp_path, pictures):
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    common = [
        "--data-root",
        root,
        "--dataset",
        "custom",
        "--epochs",
        2,
        "--teacher-epochs",
        0,
        "--run-dir",
        tmp_path / "run",
    ]
    monkeypatch.setattr(train, "validate", stop)
    with pytest.raises(Stop):
        run(monkeypatch, *common)
    for folder in ("im", "gt"):
        sorted((root / "train" / folder).iterdir())[0].unlink()
    with pytest.raises(UserError, match="other pictures"):
        run(monkeypatch, *common, "--resume")


def test_a_teacher_of_another_kind_is_refused(monkeypatch, tmp_path, pictures):
    common = ["--data-root", pictures, "--dataset", "custom", "--epochs", 1, "--teacher-epochs", 0, "--run-dir"]
    run(monkeypatch, *common, tmp_path / "cnn")
    with pytest.raises(UserError, match="contradicts --teacher swin"):
        run(
            monkeypatch,
            *common,
            tmp_path / "swin",
            "--teacher",
            "swin",
            "--teacher-checkpoint",
            tmp_path / "cnn" / "teacher.pth",
        )


class Stop(Exception):
    """Ends a run where a test wants it to."""


def stop(*arguments: object, **options: object) -> None:
    raise Stop


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_hard_mattes_stay_finite_at_every_precision(monkeypatch, tmp_path, pictures, precision):
    """F18, F19: nothing, everything, one pixel, and pictures of the extreme colours."""
    root = tmp_path / "data"
    shutil.copytree(pictures, root)
    images, alphas = (sorted((root / "train" / folder).iterdir()) for folder in ("im", "gt"))
    for image, alpha, colour, level in zip(images, alphas, (0, 255, 0, 255), (0, 255, 0, 255), strict=False):
        with Image.open(alpha) as picture:
            size = picture.size
        Image.new("RGB", size, (colour,) * 3).save(image)
        Image.new("L", size, level).save(alpha)
    with Image.open(alphas[2]) as picture:
        picture.load()
    picture.putpixel((5, 5), 255)
    picture.save(alphas[2])
    run(monkeypatch, "--data-root", root, "--dataset", "custom", "--epochs", 3, "--teacher-epochs", 1,
        "--batch-size", 3, "--precision", precision, "--log-every", 1, "--run-dir", tmp_path / "run")  # fmt: skip
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    finite = log[log["dropped_steps"] == 0]
    assert finite.notna().all().all() and len(finite) >= (1 if precision == "fp16" else len(log))
    assert not (tmp_path / "run" / "dropped.csv").exists(), "an overflow of scaled gradients is nobody's fault"
    weights = load_checkpoint(tmp_path / "run" / "best.pth")["model"]
    assert all(tensor.isfinite().all() for tensor in weights.values())
