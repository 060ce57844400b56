"""utils.sampler: every number of processes makes the same steps, from wherever they begin."""

from itertools import product

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from utils.sampler import StepSampler

LAYOUTS = [
    (length, batch_size, step_images, world_size)
    for length, batch_size, step_images, world_size in product((1, 2, 5, 8, 23), (1, 2, 3, 8), (1, 4, 6), (1, 2, 3, 4))
    if step_images >= world_size
]


def steps_of(sampler: StepSampler) -> list[list[list[int]]]:
    """The indices of the batches of each step of an epoch, in the sizes that the sampler announces."""
    yielded, steps = iter(sampler), []
    for step in range(sampler.steps):
        sizes = sampler.batches(step)
        batches = [next(yielded) for _ in sizes]
        assert [len(batch) for batch in batches] == [size or 1 for size in sizes]
        assert {epoch for batch in batches for epoch, _ in batch} == {sampler.epoch}
        steps.append([[index for _, index in batch] for batch in batches])
    assert next(yielded, None) is None, "more than it announced"
    return steps


@pytest.mark.parametrize(("length", "batch_size", "step_images", "world_size"), LAYOUTS)
def test_processes_share_the_steps_of_a_single_one(
    length: int, batch_size: int, step_images: int, world_size: int
) -> None:
    options = {"seed": 3, "batch_size": batch_size, "step_images": step_images}
    samplers = [StepSampler(length, **options, rank=rank, world_size=world_size) for rank in range(world_size)]
    single = StepSampler(length, **options)
    for sampler in (single, *samplers):
        sampler.seek(2)
    shares = [steps_of(sampler) for sampler in samplers]
    seen = []
    for step, batches in enumerate(steps_of(single)):
        whole = [index for batch in batches for index in batch]
        assert len(whole) == single.images(step) == (step_images if step < single.steps - 1 else length - len(seen))
        counted = []
        for sampler, share in zip(samplers, shares, strict=True):
            sizes = sampler.batches(step)
            assert max(sizes) <= batch_size and (min(sizes) > 0 or sizes == [0])
            mine = [index for batch in share[step] for index in batch]
            assert set(mine) <= set(whole), "a stand-in, too, is of the step"
            counted.append(mine if sum(sizes) else [])
        assert sorted(index for mine in counted for index in mine) == sorted(whole)
        assert max(map(len, counted)) - min(map(len, counted)) <= 1, "one process has more to do than another"
        seen += whole
    assert sorted(seen) == list(range(length)), "each once an epoch"
    for sampler, share in zip(samplers, shares, strict=True):
        assert len(sampler) == sum(map(len, share))


def test_a_process_without_an_image_has_a_stand_in_that_does_not_count() -> None:
    """Nine images in steps of four: one is left for three processes."""
    samplers = [StepSampler(9, batch_size=2, step_images=4, rank=rank, world_size=3) for rank in range(3)]
    assert [sampler.batches(2) for sampler in samplers] == [[1], [0], [0]]
    last = [steps_of(sampler)[2] for sampler in samplers]
    assert last[0] == last[1] == last[2] and len(last[0][0]) == 1
    assert [sampler.images(2) for sampler in samplers] == [1, 1, 1]


@pytest.mark.parametrize("rank", [0, 2])
def test_it_begins_at_any_step(rank: int) -> None:
    sampler = StepSampler(23, seed=5, batch_size=2, step_images=7, rank=rank, world_size=3)
    for epoch in (0, 4):
        sampler.seek(epoch)
        straight = list(sampler)
        for step in range(sampler.steps + 1):
            before = sum(len(sampler.batches(each)) for each in range(step))
            sampler.seek(epoch, step)
            assert list(sampler) == straight[before:]
            assert list(sampler) == straight[before:], "an iteration changes nothing"


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int, **options: int) -> tuple[int, ...]:
        torch.manual_seed(sum(options.values()))
        sampler = StepSampler(50, seed=seed, **options)
        sampler.seek(epoch)
        return tuple(index for batch in sampler for _, index in batch)

    runs = [(0, 0), (0, 1), (1, 0), (1, 1)]
    orders = {run: order(*run, batch_size=4, step_images=8) for run in runs}
    assert len({*orders.values()}) == 4
    for run in runs:
        assert order(*run, batch_size=3) == order(*run, batch_size=50) == orders[run]


def test_if_nothing_else_is_said_a_step_is_a_batch() -> None:
    sampler = StepSampler(5, batch_size=2)
    sampler.seek(1)
    batches = list(sampler)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert sorted(key for batch in batches for key in batch) == [(1, index) for index in range(5)]
    assert sampler.steps == len(sampler) == 3


class Keys(Dataset):
    """Gives back what it is asked for."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key

    def __len__(self) -> int:
        return 11


def test_workers_change_nothing() -> None:
    def read(num_workers: int) -> list[list[tuple[int, ...]]]:
        sampler = StepSampler(11, seed=1, batch_size=2, step_images=4)
        loader = DataLoader(
            Keys(), batch_sampler=sampler, num_workers=num_workers, persistent_workers=num_workers > 0, collate_fn=list
        )
        batches = []
        for position in ((0, 0), (1, 2), (1, 0)):  # workers that are alive hear of it, too
            sampler.seek(*position)
            batches += loader
        return batches

    alone = read(0)
    assert alone == read(2) and alone[0][0][0] == 0 and len(alone) == 6 + 2 + 6
