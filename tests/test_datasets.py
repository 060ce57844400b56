"""utils.datasets: samples do not depend on the workers that make them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils.datasets import AlphaDataset, MattingDataset, Sample
from utils.encoding import write_image
from utils.errors import UserError
from utils.pairs import Pair, find_pairs
from utils.sampler import StepSampler
from utils.seeds import seeded_rng
from utils.transforms import NO_CROPS, EvalTransform, SampleCrops


def write_pair(root: Path, name: str, size: tuple[int, int], alpha_size: tuple[int, int] | None = None) -> None:
    rng = np.random.default_rng(sum(name.encode()))
    write_image(root / "im" / f"{name}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    write_image(root / "gt" / f"{name}.png", rng.integers(0, 256, alpha_size or size, dtype=np.uint8))


def noisy_crop(
    rgb: np.ndarray, alpha: np.ndarray, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, SampleCrops]:
    top = int(rng.integers(rgb.shape[0] - 8))
    image = torch.from_numpy(rgb[top : top + 8, :8]).permute(2, 0, 1) / 255
    image = image + torch.from_numpy(rng.random((3, 1, 1)))
    return image, torch.from_numpy(alpha[top : top + 8, :8])[None], NO_CROPS


@pytest.fixture
def pairs(tmp_path: Path) -> list[Pair]:
    for i in range(7):
        write_pair(tmp_path / "train", f"p{i}", (20, 12 + i))
    return find_pairs(tmp_path)


def test_sample_is_what_the_files_hold(pairs: list[Pair]) -> None:
    seen = []
    dataset = MattingDataset(pairs, lambda rgb, alpha, generator: seen.append((rgb, alpha)) or (rgb, alpha, NO_CROPS))
    sample = dataset[3]
    assert isinstance(sample, Sample) and sample.name == "p3" and len(dataset) == 7
    rgb, alpha = seen[0]
    assert rgb.dtype == np.uint8 and rgb.shape == (20, 15, 3)
    assert alpha.dtype == np.float32 and alpha.shape == (20, 15)
    np.testing.assert_array_equal(alpha * 255, np.array(Image.open(pairs[3].alpha)))
    np.testing.assert_array_equal(rgb, np.array(Image.open(pairs[3].image)))


def epochs(pairs: list[Pair], num_workers: int, seed: int = 0, first: int = 0) -> list[tuple[str, torch.Tensor]]:
    sampler = StepSampler(len(pairs), seed=seed, batch_size=2)
    loader = torch.utils.data.DataLoader(
        MattingDataset(pairs, noisy_crop, seed=seed),
        batch_sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    seen = []
    for epoch in range(first, 2):
        sampler.seek(epoch)
        for batch in loader:
            assert isinstance(batch, Sample)
            seen += list(zip(batch.name, batch.rgb, strict=True))
    return seen


def test_samples_do_not_depend_on_workers_or_on_what_came_before(pairs: list[Pair]) -> None:
    torch.manual_seed(1)
    alone = epochs(pairs, num_workers=0)
    torch.manual_seed(2)
    helped = epochs(pairs, num_workers=2)
    resumed = epochs(pairs, num_workers=0, first=1)
    for one, other in ((alone, helped), (alone[7:], resumed)):
        assert [name for name, _ in one] == [name for name, _ in other]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True))
    first, second = dict(alone[:7]), dict(alone[7:])
    assert list(first) != list(second) and first.keys() == second.keys()
    assert not any(torch.equal(first[name], second[name]) for name in first)
    other_seed = dict(epochs(pairs, num_workers=0, seed=1)[:7])
    assert not any(torch.equal(other_seed[name], array[name]) for name in first for array in (first, second))


def test_integer_key_is_epoch_0(pairs: list[Pair]) -> None:
    dataset = MattingDataset(pairs, noisy_crop)
    assert torch.equal(dataset[2].rgb, dataset[0, 2].rgb)
    assert not torch.equal(dataset[2].rgb, dataset[1, 2].rgb)


def test_size_mismatch_and_limit_are_named(pairs: list[Pair]) -> None:
    write_image(pairs[1].alpha, np.zeros((5, 5), np.uint8))
    dataset = MattingDataset(pairs, noisy_crop)
    with pytest.raises(UserError, match=r"im/p1\.png is 13x20, but its alpha .*gt/p1\.png is 5x5"):
        dataset[1]
    with pytest.raises(UserError, match=r"p0\.png.*--max-pixels"):
        MattingDataset(pairs, noisy_crop, max_pixels=100)[0]


def test_the_teacher_reads_no_photographs(pairs: list[Pair]) -> None:
    transform = EvalTransform(32)
    expected = [MattingDataset(pairs, transform)[i] for i in range(7)]
    for pair in pairs:
        pair.image.unlink()
    for i, sample in enumerate(AlphaDataset(pairs, transform)[i] for i in range(7)):
        assert torch.equal(sample.alpha, expected[i].alpha) and sample.name == expected[i].name
        assert sample.rgb.shape == (3, 0, 0) and sample.crops is NO_CROPS


def test_random_numbers_do_not_collide_and_are_the_same_in_every_process() -> None:
    draws = {
        int(seeded_rng(seed, epoch, index).integers(2**62))
        for seed in range(5)
        for epoch in range(5)
        for index in range(5)
    }
    assert len(draws) == 125
    assert seeded_rng(0, "a\udcff").random() != seeded_rng(0, "a").random()  # a file name that is not UTF-8
    code = "from utils.seeds import seeded_rng as g; print(g(1, 2, 'x').integers(2**62))"
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[1]
    printed = subprocess.run(command, cwd=root, env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True)
    assert int(printed.stdout) == int(seeded_rng(1, 2, "x").integers(2**62))
