"""Memory and speed of inference: what is prepared, what it changes, and what stays bounded."""

import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from models import Refiner, Routing, TSRMatte
from models.patches import Patches
from models.routing import refine_patches
from utils.errors import UserError
from utils.inference import Predictor, batch_px_within, for_inference, load_model, predict_alpha, to_alpha, with_effort
from utils.memory import OutOfMemory, keep_memory_of, lack_of_memory_told
from utils.transforms import Preprocess

ROOT = Path(__file__).resolve().parents[1]
GLIBC = platform.libc_ver()[0] == "glibc"
CPU = torch.device("cpu")
ROUTING = Routing(
    error_threshold=0.0, refine_budget=1.0, max_patches=None, patch_px=16, largest_px=64, batch_px=2 * 64**2
)


def build_predictor(network: TSRMatte, **changes: Any) -> Predictor:
    return Predictor(network, Preprocess(64), replace(ROUTING, **changes), CPU)


def photograph(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------- allocator


def run_alone(code: str) -> str:
    """What the code prints in a process of its own: the setting is the process's."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_a_freed_block_is_used_again() -> None:
    """Pages that are touched for the first time are counted by the system."""
    faults = run_alone(
        """
import resource, torch
from utils.memory import keep_memory_of

def faults(make=lambda: torch.ones(12_000_000)):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    make()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
without = faults()
class Ones(torch.nn.Module):
    def forward(self):
        torch.ones(12_000_000)
        if self.training:
            raise KeyError

module = Ones().eval()
assert keep_memory_of(module)
for _ in range(20):  # crumbs of the first blocks lie between them until glibc's caches are full of such
    faults(module)
kept = faults(module)
larger = lambda: torch.ones(90_000_000)  # than all that is kept, which serves others as well
larger()
outside = faults(larger)
try:
    module.train()()
except KeyError:  # the setting is taken back all the same
    print(without, kept, outside, faults(larger))
"""
    )
    without, kept, outside, after_error = map(int, faults.split())
    assert kept < 0.1 * without
    assert min(outside, after_error) > 6 * without, "what is made elsewhere is handed back"


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("a library was opened"))
    assert keep_memory_of(torch.nn.Identity()) is False


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_memory_stays_flat_whatever_the_sizes() -> None:
    """Blocks of many sizes must find room among those that are kept: after the largest picture, nothing is added."""
    held = run_alone(
        """
import sys
sys.path.insert(0, "tests")
import numpy as np
import torch
from conftest import build_network
from test_memory import build_predictor, photograph
from utils.inference import for_inference, predict_alpha

torch.set_num_threads(1)
predictor = build_predictor(for_inference(build_network(), torch.device("cpu")), batch_px=20 * 64**2)

def resident():
    return int(open("/proc/self/statm").read().split()[1])

def predict(height, width):
    predict_alpha(predictor, photograph(height, width))

for size in [(600, 900), (100, 150), (600, 900)]:
    predict(*size)
begun = resident()
rng = np.random.default_rng(0)
for _ in range(20):
    predict(*map(int, rng.integers(100, [600, 900])))
print(begun, resident())
"""
    )
    begun, ended = map(int, held.split())
    assert ended < 1.03 * begun


# ------------------------------------------------------------------------------------------------- preparation


def test_the_prepared_network_gives_the_same_alpha(make_network: Callable, make_pair: Callable) -> None:
    rgb, _ = make_pair(211, 173)
    with torch.no_grad():
        networks = [make_network(), for_inference(make_network(), CPU)]
    plain, prepared = (predict_alpha(build_predictor(network), rgb) for network in networks)
    assert plain.std() > 0.1
    assert np.abs(plain - prepared).max() <= 1e-5


def test_a_loaded_model_is_prepared(checkpoint: Path, make_network: Callable) -> None:
    def fused(network: TSRMatte) -> set[bool]:
        return {module.fused_attn for module in network.modules() if hasattr(module, "fused_attn")}

    assert fused(make_network()) == {False}, "timm fuses by itself now: nothing is left to do"
    network = load_model(checkpoint).network
    assert fused(network) == {True}
    assert not network.training
    wide = [p for p in network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert wide and all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)


# ------------------------------------------------------------------------------------------------- large photographs


class Largest(TorchDispatchMode):
    """Bytes of the largest storages that operations return."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}  # bytes to how many distinct ones
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            t.untyped_storage().data_ptr()
            for t in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(t, torch.Tensor)
        }
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                size = tensor.untyped_storage().nbytes()
                self.sizes[size] = self.sizes.get(size, 0) + 1
        return result


def test_a_large_photograph_needs_one_plane_of_logits(make_network: Callable) -> None:
    """Beside it and the photograph, nothing grows with the photograph's area."""
    predictor = build_predictor(for_inference(make_network(), CPU))
    made = {}
    for height, width in ((320, 480), (640, 960)):
        with torch.inference_mode(), Largest() as largest:
            alpha = predict_alpha(predictor, photograph(height, width))
        assert alpha.shape == (height, width)
        made[height] = largest.sizes
    small, large = made[320], made[640]
    plane = 4 * 640 * 960
    assert max(large) == plane and large[plane] == 1
    # Resizing makes a strip, of the coarse stage's width and the photograph's height; the rest is of the same sizes.
    assert max(size for size in large if size != plane) <= max(size for size in small if size != plane // 4)


def test_the_logits_become_the_alpha_in_place() -> None:
    logits = torch.linspace(-9, 9, 12).view(1, 1, 3, 4)
    expected = torch.sigmoid(logits)[0, 0].numpy()
    assert np.array_equal(to_alpha(logits), expected)
    assert logits.min() == -9, "its own tensor, unless it is told otherwise"
    alpha = to_alpha(logits, out=logits)
    assert np.array_equal(alpha, expected) and np.shares_memory(alpha, logits.numpy())


# ------------------------------------------------------------------------------------------------- memory limit


@contextmanager
def peak_of_tensors() -> Iterator[list[int]]:
    """Afterwards a list of one number: the most bytes that were allocated at a time."""
    peak: list[int] = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        yield peak
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    peak.append(int(held.max()))


@pytest.mark.parametrize("side", [16, 128])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("width", "blocks"), [(8, 1), (64, 2)])
def test_refinement_stays_within_its_memory(width: int, blocks: int, precision: str, side: int) -> None:
    torch.manual_seed(0)
    refiner = Refiner(width, blocks).eval()
    limit, size = 60_000_000, 768
    routing = replace(ROUTING, patch_px=side, largest_px=side)
    batch_px = batch_px_within(refiner, limit, routing, precision)
    places = torch.arange(0, size, side)
    corners = torch.cartesian_prod(places, places)
    assert len(corners) * (side + 2 * refiner.halo_px) ** 2 > batch_px, "else the limit would not be felt"
    patches = [Patches(side, torch.zeros(len(corners), dtype=torch.int64), corners)]
    rgb = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
        peak_of_tensors() as peak,
    ):
        refine_patches(refiner, rgb, Preprocess(64).normalise, torch.randn(1, 1, 64, 64), patches, batch_px)
    used = peak[0] - 4 * size**2  # the logits themselves
    assert used <= limit
    assert used > (0.4 if side == 16 else 0.6) * limit, "no more careful than need be"


def test_more_memory_takes_more_at_a_time() -> None:
    refiner = Refiner(32, 2)
    taken = [batch_px_within(refiner, gigabytes * 1e9, ROUTING, "fp32") for gigabytes in (0.1, 0.2, 0.4, 0.8)]
    assert all(1.8 * a < b < 2.2 * a for a, b in pairwise(taken))
    assert batch_px_within(refiner, 1e9, ROUTING, "bf16") > batch_px_within(refiner, 1e9, ROUTING, "fp32")


def test_a_limit_never_raises_what_is_refined_at_a_time(make_network: Callable) -> None:
    predictor = build_predictor(make_network(), batch_px=10**6)
    taken = [with_effort(predictor, memory_limit=limit).routing.batch_px for limit in (2.0, 0.01)]
    assert taken[0] == 10**6 and 0 < taken[1] < 10**6


def test_too_little_memory_for_a_patch() -> None:
    with pytest.raises(UserError, match=r"--memory-limit 0.001.*64 px"):
        batch_px_within(Refiner(64, 2), 1e6, ROUTING, "fp32")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
        cv2.error("OpenCV(4.14.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 4 bytes"),
    ],
)
def test_who_runs_out_of_memory_is_told_so(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match="too large for the memory") as caught, lack_of_memory_told():
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), UserError("a.png: out of memory"), KeyboardInterrupt()]
)
def test_all_else_stays_what_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, lack_of_memory_told():
        raise error
    assert caught.value is error


def test_an_array_that_is_too_large_runs_out_of_memory() -> None:
    with pytest.raises(OutOfMemory), lack_of_memory_told():
        np.empty(2**60, np.uint8)
    with pytest.raises(OutOfMemory), lack_of_memory_told():
        torch.empty(2**60, dtype=torch.uint8)
