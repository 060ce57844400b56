"""Which samples make up which optimiser step: a function of (seed, epoch, step), for any number of processes."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from utils.seeds import seeded_rng


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields batches of (epoch, index) keys, each index once an epoch, those of one optimiser step after the other.

    A step takes the next `step_images` of the epoch's order, whatever the number of processes: these share them, and go
    through their share in batches. So more processes give the same steps. A process that is left without an image in
    the last step of an epoch gets a stand-in that does not count: all take part in adding up the gradients.

    The epoch travels in the keys because workers hold a copy of the dataset made before the epoch began.

    Args:
        length: Number of samples.
        seed: Of the run.
        batch_size: Samples at once, at most.
        step_images: Samples a step, of all processes together, at least one a process; None: a batch.
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int = 0,
        batch_size: int,
        step_images: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.length = length
        self.seed = seed
        self.batch_size = batch_size
        self.step_images = step_images or batch_size
        self.rank = rank
        self.world_size = world_size
        self.steps = -(-length // self.step_images)  # an epoch
        self.epoch, self.step = 0, 0

    def seek(self, epoch: int, step: int = 0) -> None:
        """Selects where the next iteration begins: an epoch and a step of it, both from 0."""
        self.epoch, self.step = epoch, step

    def images(self, step: int) -> int:
        """Samples in a step of an epoch, of all processes together; the last step may have fewer."""
        return min(self.step_images, self.length - step * self.step_images)

    def batches(self, step: int) -> list[int]:
        """Samples in each of this process' batches of a step; [0] is one batch, the stand-in."""
        mine = len(range(self.rank, self.images(step), self.world_size))
        return [min(self.batch_size, mine - at) for at in range(0, mine, self.batch_size)] or [0]

    def __len__(self) -> int:
        """Batches this process has an epoch."""
        return sum(len(self.batches(step)) for step in range(self.steps))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = seeded_rng(self.seed, self.epoch).permutation(self.length)
        for step in range(self.step, self.steps):
            group = order[step * self.step_images :][: self.step_images].tolist()
            mine = group[self.rank :: self.world_size] or group[:1]
            for at in range(0, len(mine), self.batch_size):
                yield [(self.epoch, index) for index in mine[at : at + self.batch_size]]
