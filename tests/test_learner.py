"""utils.learner: steps that are exact, that leave out what is not finite, and that go on where they were saved."""

import copy
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import default_collate
from training import same

import train
from config import LossConfig, demo
from models import MaskTeacher, TSRMatte
from utils.datasets import Sample
from utils.distributed import Processes
from utils.errors import UserError
from utils.learner import Learner, Objective
from utils.teaching import AutoEncoder, Reconstruction
from utils.transforms import Preprocess, TrainTransform

ALONE = Processes(0, 1, torch.device("cpu"))
NOWHERE = Path("last.pth")
PEAK = 0.05


class Batch(NamedTuple):
    """Inputs, targets, and a name for each row; a name that begins with "nan", "inf" or "loss" does harm."""

    x: Tensor
    y: Tensor
    name: list[str]


def batch(seed: int, size: int, harm: str = "good") -> Batch:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 3, generator=rng, dtype=torch.float64)
    y = torch.randn(size, 1, generator=rng, dtype=torch.float64)
    return Batch(x, y, [f"{harm} {seed}.{at}" for at in range(size)])


def merged(parts: Sequence[Batch]) -> Batch:
    return Batch(torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]), [n for p in parts for n in p.name])


class HalfGradient(torch.autograd.Function):
    """Its gradient passes through half precision, and so overflows as that of a network in fp16 does."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.half().to(gradient.dtype)


def objective(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    dtype = next(module.parameters()).dtype
    predicted = module(batch.x.to(dtype))
    if dtype == torch.float32:
        predicted = HalfGradient.apply(predicted / 64) * 64
    squared, absolute = (predicted - batch.y.to(dtype)).square().mean(), (predicted - batch.y.to(dtype)).abs().mean()
    total = squared + absolute
    kinds = {name.split()[0] for name in batch.name}
    if "nan" in kinds:
        total = total * math.nan
    if "inf" in kinds:  # 0, whose gradient is infinite
        total = total + (predicted - predicted.detach()).sum().sqrt()
    if "loss" in kinds:  # infinite, with a gradient that is not
        total = total + math.inf
    return {"squared": squared, "absolute": absolute, "total": total}


def make_learner(
    seed: int = 0, *, precision: str = "fp32", clip_norm: float = 0.5, max_dropped_steps: int = 3, **options: Any
) -> Learner:
    """Of two groups with decay and rates of their own; float64, but where the scaler is used, which wants float32.

    If anything is averaged, it is the first layer.
    """
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    module = module.double() if precision == "fp32" else module
    groups = [
        {"params": list(module[0].parameters()), "weight_decay": 0.1, "lr": PEAK, "peak": PEAK},
        {"params": list(module[2].parameters()), "weight_decay": 0.0, "lr": PEAK / 5, "peak": PEAK / 5},
    ]
    options = {"clip_norm": clip_norm, "max_dropped_steps": max_dropped_steps, **options}
    return Learner(module, groups, world=ALONE, precision=precision, averaged=module[0], **options)


def step(learner: Learner, *batches: Batch, rate: float = 1.0) -> None:
    sizes = [len(each.name) for each in batches]
    learner.make_step(iter(batches), sizes, sum(sizes), objective, rate)


def weights(learner: Learner) -> dict[str, Tensor]:
    return copy.deepcopy(learner.module.state_dict())


def optimised(learner: Learner) -> dict[str, Any]:
    """Weights, moments and their step counts."""
    return copy.deepcopy([learner.module.state_dict(), learner.optimizer.state_dict()["state"]])


# ------------------------------------------------------------------------------------------------------------
# Steps


def adamw_by_hand(module: nn.Module, batches: list[Batch], rates: list[float], clip_norm: float) -> list[float]:
    """Loshchilov and Hutter's Algorithm 2, with the gradient clipped before. Returns the norms."""
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    settings = [(PEAK, 0.1), (PEAK, 0.1), (PEAK / 5, 0.0), (PEAK / 5, 0.0)]
    first, second = ([torch.zeros_like(p) for p in module.parameters()] for _ in range(2))
    norms = []
    for t, (each, rate) in enumerate(zip(batches, rates, strict=True), start=1):
        gradients = torch.autograd.grad(objective(module, each)["total"], list(module.parameters()))
        norms.append(math.sqrt(sum(float((g**2).sum()) for g in gradients)))
        with torch.no_grad():
            for at, (p, g) in enumerate(zip(module.parameters(), gradients, strict=True)):
                g = g * min(1.0, clip_norm / (norms[-1] + 1e-6))
                lr, decay = settings[at][0] * rate, settings[at][1]
                first[at] = beta1 * first[at] + (1 - beta1) * g
                second[at] = beta2 * second[at] + (1 - beta2) * g**2
                p -= lr * decay * p
                p -= lr * (first[at] / (1 - beta1**t)) / ((second[at] / (1 - beta2**t)).sqrt() + eps)
    return norms


@pytest.mark.parametrize("sizes", [[[8]] * 6, [[3, 1, 4], [5], [2, 2, 2, 1], [1] * 6, [7, 1], [8]]])
def test_steps_are_adamw_on_the_whole_batch(sizes: list[list[int]]) -> None:
    """However it is cut, since each image weighs the same; and after clipping, each group at its own rate."""
    learner, rates = make_learner(clip_norm=1.2), [0.5, 1.0, 1.0, 0.8, 0.3, 0.1]
    reference = copy.deepcopy(learner.module)
    cut = [[batch(10 * at + i, size) for i, size in enumerate(each)] for at, each in enumerate(sizes)]
    for each, rate in zip(cut, rates, strict=True):
        step(learner, *each, rate=rate)
    norms = adamw_by_hand(reference, [merged(each) for each in cut], rates, clip_norm=1.2)
    assert min(norms) < 1.2 < max(norms), "some are clipped, some are not"
    for mine, theirs in zip(learner.module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)
    assert learner.step == 6 and learner.report()[0]["gradient_norm"] == pytest.approx(np.mean(norms), rel=1e-5)


def test_only_as_many_batches_are_taken_as_the_step_has() -> None:
    learner, batches = make_learner(), iter([batch(0, 2), batch(1, 1), batch(2, 2)])
    learner.make_step(batches, [2, 1], 3, objective, 1.0)
    assert next(batches).name[0] == "good 2.0"


def test_a_stand_in_changes_nothing() -> None:
    """Nor does its name appear, nor its loss, as long as that is finite."""
    learners = [make_learner(), make_learner()]
    step(learners[0], batch(0, 2))
    learners[1].make_step(iter([batch(0, 2), batch(1, 1)]), [2, 0], 2, objective, 1.0)
    assert same(weights(learners[0]), weights(learners[1]))
    rows = [learner.report()[0] for learner in learners]
    assert rows[0]["total"] == rows[1]["total"]
    learners[1].make_step(iter([batch(2, 2, "inf"), batch(1, 1)]), [2, 0], 2, objective, 1.0)
    assert learners[1].report()[1] == [(2, ["inf 2.0", "inf 2.1"])]


# ------------------------------------------------------------------------------------------------------------
# Steps that are not finite


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("harm", ["nan", "inf", "loss"])
@pytest.mark.parametrize("before", [0, 2])
def test_a_step_that_is_not_finite_leaves_no_trace(precision: str, harm: str, before: int) -> None:
    """F17: bit by bit; also where it is the first, and where the loss is infinite and its gradient is not."""
    learner, spared = (make_learner(precision=precision) for _ in range(2))
    for each in (learner, spared):
        each.scaler = torch.amp.GradScaler("cpu", init_scale=16.0, enabled=precision == "fp16")
        for at in range(before):
            step(each, batch(at, 3), batch(10 + at, 2))
    at_first = optimised(learner)
    step(learner, batch(20, 3), batch(21, 2, harm))
    assert same(at_first[0], weights(learner))
    if before:
        assert same(at_first, optimised(learner))
    assert learner.step == before + 1
    for each in (learner, spared):
        for at in (30, 31):
            step(each, batch(at, 3), batch(10 + at, 2), rate=0.7)
    assert same(optimised(learner), optimised(spared))
    row, dropped = learner.report()
    assert row["dropped_steps"] == 1 and spared.report()[0]["dropped_steps"] == 0
    if harm != "inf" or precision == "fp32":
        assert [each.step for each in dropped] == [before + 1]


def test_a_loss_tells_which_batch_is_to_blame_and_a_gradient_does_not() -> None:
    learner = make_learner(max_dropped_steps=10)
    step(learner, batch(0, 2), batch(1, 2, "nan"), batch(2, 1))
    step(learner, batch(3, 1))
    step(learner, batch(4, 2), batch(5, 1, "inf"))
    step(learner, batch(6, 1, "loss"), batch(7, 1), batch(8, 1, "nan"))
    row, dropped = learner.report()
    assert row["dropped_steps"] == 3 and dropped == [
        (1, ["nan 1.0", "nan 1.1"]),
        (3, ["good 4.0", "good 4.1", "inf 5.0"]),
        (4, ["loss 6.0", "nan 8.0"]),
    ]
    row, dropped = learner.report()
    assert row["dropped_steps"] == 0 and dropped == [], "told once"


@pytest.mark.parametrize("looks", ["at the end", "each step", "saved and resumed"])
def test_so_many_in_a_row_end_the_training(looks: str) -> None:
    """Whenever they are counted; a good one in between begins the count anew."""

    def train_on(harms: str) -> Learner:
        learner = make_learner()
        for at, each in enumerate(harms):
            step(learner, batch(at, 2, {"b": "nan", "g": "good", "i": "inf"}[each]))
            if looks == "each step":
                learner.report()
            elif looks == "saved and resumed":
                learner = resumed(learner, make_learner(seed=9))
        learner.report()
        return learner

    assert train_on("bbgbbgbgib").dropped_in_a_row == 2
    with pytest.raises(UserError, match=r"3 steps in a row.*nan 4\.0, nan 4\.1.*--learning-rate") as error:
        train_on("bgibb")
    assert "2.0" not in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"inf 2\.0, inf 2\.1"):
        train_on("bbi")


def test_saving_ends_a_training_that_is_lost() -> None:
    learner = make_learner(max_dropped_steps=1)
    step(learner, batch(0, 1, "nan"))
    with pytest.raises(UserError, match=r"nan 0\.0"):
        learner.state()


def test_an_overflow_in_half_precision_is_counted_and_not_blamed() -> None:
    """The scale falls until gradients fit: only so many of them in a row are a fault."""
    learner = make_learner(precision="fp16", max_dropped_steps=20)
    before = weights(learner)
    step(learner, batch(0, 2))
    assert same(before, weights(learner))
    row, dropped = learner.report()
    assert (row["dropped_steps"], dropped) == (1, []) and row["loss_scale"] == 2.0**15
    scales = []
    for at in range(1, 20):
        step(learner, batch(at, 2))
        scales.append(learner.report()[0])
    lost = sum(row["dropped_steps"] for row in scales)
    assert 2 < lost < 15 and scales[-1]["loss_scale"] == 2.0 ** (15 - lost) and learner.dropped_in_a_row == 0
    assert not same(before, weights(learner)) and all(math.isfinite(row["total"]) for row in scales)

    step(learner, batch(20, 1), batch(21, 1, "nan"))
    assert learner.report()[1] == [(21, ["nan 21.0"])]

    lost = make_learner(precision="fp16", max_dropped_steps=2)
    for at in range(2):
        step(lost, batch(at, 1))
    with pytest.raises(UserError, match=r"2 steps in a row were dropped, the last made of good 1\.0"):
        lost.report()


def test_the_scale_does_not_change_the_steps() -> None:
    scaled, plain = make_learner(precision="fp16"), make_learner(precision="fp16")
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    plain.scaler = torch.amp.GradScaler("cpu", enabled=False)
    for at in range(4):
        for learner in (scaled, plain):
            step(learner, batch(at, 3), batch(10 + at, 1))
    for one, other in zip(scaled.module.parameters(), plain.module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    assert scaled.report()[0]["total"] == pytest.approx(plain.report()[0]["total"], rel=1e-4)


# ------------------------------------------------------------------------------------------------------------
# The average of the weights, and the report


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_is_exponential_after_a_warm_up(decay: float) -> None:
    """As timm's: 1 - (1 + n)^(-2/3), until the decay is reached. Of the averaged part, the rest is left alone."""
    learner = make_learner(ema_decay=decay)
    expected = learner.module[0].weight.detach().clone()
    decays = []
    for n in range(8):
        step(learner, batch(n, 2))
        decays.append(min(decay, 1 - (1 + n) ** (-2 / 3)))
        expected = decays[-1] * expected + (1 - decays[-1]) * learner.module[0].weight.detach()
        torch.testing.assert_close(learner.ema.module.weight.detach(), expected, rtol=0, atol=1e-14)
    assert decays[0] == 0 and (decays[-1] == decay) == (decay == 0.5)
    assert learner.ema.module.state_dict().keys() == learner.module[0].state_dict().keys()
    step(learner, batch(8, 2, "nan"))
    assert all(each.isfinite().all() for each in learner.ema.module.parameters())


def test_reported_means_weigh_each_image_the_same() -> None:
    learner, sizes = make_learner(), [[3, 1], [2], [1, 1, 1]]
    values: dict[str, list[float]] = {"squared": [], "absolute": [], "total": []}
    counts = []
    for at, each in enumerate(sizes):
        parts = [batch(10 * at + i, size) for i, size in enumerate(each)]
        for part in parts:
            counts.append(len(part.name))
            for name, value in objective(learner.module, part).items():
                values[name].append(value.item())
        step(learner, *parts)
    row, dropped = learner.report()
    assert {name: row[name] for name in values} == pytest.approx(
        {name: np.average(each, weights=counts) for name, each in values.items()}, rel=1e-6
    )
    assert dropped == [] and row["dropped_steps"] == 0 and "loss_scale" not in row
    assert row["images_per_second"] > 0 and row["peak_memory_gb"] > 0
    assert {"data_s", "forward_s", "backward_s", "step_s"} <= row.keys()

    value = objective(learner.module, batch(50, 2))["total"].item()
    step(learner, batch(50, 2))
    step(learner, batch(51, 2, "nan"))
    row, _ = learner.report()
    assert row["total"] == pytest.approx(value, rel=1e-6), "neither what was reported nor what is not finite"


# ------------------------------------------------------------------------------------------------------------
# Saving and resuming


def resumed(learner: Learner, fresh: Learner) -> Learner:
    """`fresh`, with what `learner` puts into a file."""
    file = io.BytesIO()
    averaged = {} if learner.ema is None else learner.ema.module.state_dict()
    torch.save({"training": learner.state(), "averaged": averaged}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh.restore(saved["training"], saved["averaged"], NOWHERE)
    return fresh


SCRIPT = [(3, 1), (2,), (1, 1), (2, 2), (4,), (1,), (3, 2), (1, 1, 1)]  # sizes of the batches of each step
HARM = {2: "nan", 3: "inf", 5: "nan"}
COSTS = ("images_per_second", "data_s", "forward_s", "backward_s", "step_s", "peak_memory_gb")


def follow(learner: Learner, begin: int, end: int) -> Iterator[Any]:
    """Makes steps of SCRIPT; yields what is reported every third of them."""
    for at in range(begin, end):
        parts = [batch(10 * at + i, size) for i, size in enumerate(SCRIPT[at])]
        step(learner, *parts[:-1], parts[-1]._replace(name=[f"{HARM.get(at, 'good')} {at}"] * len(parts[-1].name)),
             rate=1 / (at + 1))  # fmt: skip
        if learner.step % 3 == 0:
            row, dropped = learner.report()
            # The norm of a dropped step alone is no number, which equals nothing.
            yield learner.step, {name: repr(each) for name, each in row.items() if name not in COSTS}, dropped


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("cut", range(len(SCRIPT) + 1))
def test_a_resume_repeats_nothing_and_loses_nothing(precision: str, cut: int) -> None:
    """F10: saved after any step, also between reports, after dropped steps, and more than once."""

    def fresh(seed: int = 0) -> Learner:
        learner = make_learner(seed, precision=precision, max_dropped_steps=9, ema_decay=0.6)
        learner.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=2, enabled=precision == "fp16")
        return learner

    straight, first = fresh(), fresh()
    rows = list(follow(straight, 0, len(SCRIPT)))
    told = list(follow(first, 0, cut))
    once, again = copy.deepcopy(first.state()), copy.deepcopy(first.state())
    assert same(once, again), "asking changes nothing"
    second = resumed(first, fresh(seed=5))
    assert same(once, copy.deepcopy(second.state())), "what was saved is what is resumed"
    told += follow(second, cut, len(SCRIPT))
    assert told == rows and len(rows) == 2
    assert same(optimised(second), optimised(straight))
    assert same(second.ema.module.state_dict(), straight.ema.module.state_dict())
    assert same(second.state(), straight.state())


def test_weights_of_another_shape_are_refused() -> None:
    state = make_learner().state()
    state["module"] = {**state["module"], "0.weight": torch.zeros(7, 7)}
    with pytest.raises(UserError, match=r"last\.pth.*0\.weight"):
        make_learner().restore(state, {}, NOWHERE)


# ------------------------------------------------------------------------------------------------------------
# The host does not wait for the device


class NoScalars(TorchDispatchMode):
    """Fails on what `item`, `float` and `bool` of a tensor end in, wherever they are called."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reading = (torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero, torch.ops.aten.equal)
        assert func.overloadpacket not in reading, f"{func} reads a value back"
        return func(*args, **(kwargs or {}))


class NoCopies(TorchFunctionMode):
    """Fails on what is nothing on a CPU, and no operation there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reading = (Tensor.tolist, Tensor.cpu, Tensor.numpy)
        # What tells how squares are pooled, the only integers that are read, stays on the CPU.
        assert func not in reading or not args[0].is_floating_point(), f"{func} reads values back"
        return func(*args, **(kwargs or {}))


@contextmanager
def nothing_is_read_back() -> Iterator[None]:
    """Fails on what makes the host wait, were the tensors on a GPU; as far as a CPU can tell."""
    with NoScalars(), NoCopies():
        yield


READING = [float, bool, Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.numpy, lambda t: max(t, t + 1)]


@pytest.mark.parametrize("read", READING)
def test_the_guard_notices(read: Callable[[Tensor], Any]) -> None:
    with pytest.raises(AssertionError, match="back"), nothing_is_read_back():
        read(torch.ones(()))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_reads_nothing_back(precision: str) -> None:
    learner = make_learner(precision=precision, max_dropped_steps=9, ema_decay=0.9)
    parts = [batch(0, 3), batch(1, 1)], [batch(2, 2)], [batch(3, 1, "nan")]
    with nothing_is_read_back():
        for each in parts:
            step(learner, *each)
    assert learner.step == 3 and learner.report()[0]["dropped_steps"] >= 1


def samples(make_pair: Callable, transform: TrainTransform) -> Sample:
    """A batch of two, as the loader yields it."""
    made = [
        Sample(*transform(rgb, alpha / np.float32(255), np.random.default_rng(at)), f"picture {at}")
        for at, (rgb, alpha) in enumerate(make_pair(*size) for size in ((90, 70), (64, 96)))
    ]
    return default_collate(made)


def real_work(make_pair: Callable, device: torch.device) -> list[tuple[Learner, Objective, Sample]]:
    """Teacher and student, with their objectives and a batch, as train.py puts them together; nano, 64 px."""
    world = Processes(0, 1, device)
    config = demo()
    changes = {"window_size": 2, "decoder_width": 16, "refiner_width": 8, "drop_path_rate": 0.2}
    config = train.replace(
        config,
        model=train.replace(config.model, **changes),
        data=train.replace(config.data, image_size=64),
        optim=train.replace(config.optim, ema_decay=0.99, layer_decay=0.8),
        loss=LossConfig(structure_weight=0.5),
        run=train.replace(config.run, precision="bf16" if device.type == "cuda" else "fp32"),
    )
    network = train.build_network(config, print, resuming=False).to(device)
    teacher = MaskTeacher(**train.teacher_arguments(config)).eval().requires_grad_(False).to(device)
    student = train.build_learner(config, network, teacher, world)
    matting = train.matting_objective(config, Preprocess(image_size=64), teacher, device)
    encoder = AutoEncoder(MaskTeacher(**train.teacher_arguments(config)), 8).to(device)
    group = {"params": list(encoder.parameters()), "lr": 1e-3, "peak": 1e-3}
    teaching = Learner(encoder, [group], world=world, precision="fp16" if device.type == "cuda" else "fp32",
                       clip_norm=1.0, max_dropped_steps=3)  # fmt: skip
    batch = samples(make_pair, train.build_transform(config, network))
    assert isinstance(network, TSRMatte) and batch.crops.rgb.shape[1] > 0
    return [
        (student, matting, batch),
        (teaching, Reconstruction(device, "fp16" if device.type == "cuda" else "fp32"), batch),
    ]


def test_a_training_step_of_the_networks_reads_nothing_back(make_pair: Callable) -> None:
    for learner, objective, batch in real_work(make_pair, torch.device("cpu")):
        learner.module.train()
        with nothing_is_read_back():
            for _ in range(2):
                learner.make_step(iter([batch, batch]), [2, 2], 4, objective, 1.0)
        row, dropped = learner.report()
        assert math.isfinite(row["total"]) and not dropped


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_host_never_waits_for_the_gpu(make_pair: Callable) -> None:
    for learner, objective, batch in real_work(make_pair, torch.device("cuda")):
        learner.module.train()
        pinned = torch.utils.data._utils.pin_memory.pin_memory(batch)
        learner.make_step(iter([pinned]), [2], 2, objective, 1.0)  # what is made once may wait
        torch.cuda.synchronize()
        try:
            torch.cuda.set_sync_debug_mode("error")
            for _ in range(2):
                learner.make_step(iter([pinned, pinned]), [2, 2], 4, objective, 1.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert math.isfinite(learner.report()[0]["total"])
