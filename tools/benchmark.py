"""What networks cost, from photograph to alpha: arithmetic, parameters, time and memory, with random weights.

python -m tools.benchmark [--presets tsr-tiny tsr] [--sizes 1024x1024 3840x2160] [--precisions fp32 bf16] [--dense]

With random weights the expected error is noise and would route everything or nothing. It is drawn instead from the
mattes of embedded pictures: high along their edges, as of a trained network, so that as much is refined as in
photographs; or everything is (--dense). Each case has a process of its own, so that its peak of memory is its own.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from config import PRESETS, BenchmarkConfig, parse_cli
from models import Routing, TSRMatte
from models.patches import Patches
from models.routing import choose_patches
from utils.costs import Stopwatch, count_gflop, peak_gb
from utils.errors import run_script
from utils.files import require_writable, write_json
from utils.inference import Predictor, for_inference, predict, select_device, to_alpha
from utils.optim import count_parameters
from utils.parallel import process_pool
from utils.plots import save_costs
from utils.progress import progress
from utils.recall import total_work
from utils.run_folder import provenance, versions
from utils.synthetic import VAL_FIRST_INDEX, composite
from utils.transforms import Preprocess

STAGES = ("preprocess", "coarse", "refine", "to alpha")
PARTS = ("encoder", "decoder", "refiner")
TABLE = {  # key of a row to its heading and format
    "preset": ("preset", "{}"),
    "size": ("photograph", "{}"),
    "precision": ("precision", "{}"),
    "refined_share": ("refined", "{:.0%}"),
    "work_share": ("of dense work", "{:.0%}"),
    **{f"{part}_parameters": (f"M {part}", "{:.2f}") for part in PARTS},
    **{f"{part}_gflop": (f"GFLOP {part}", "{:.1f}") for part in PARTS},
    "seconds": ("s", "{:.3f}"),
    "images_per_second": ("images/s", "{:.2f}"),
    **{f"{stage}_share": (stage, "{:.0%}") for stage in STAGES},
    "peak_gb": ("peak GB", "{:.2f}"),
}
PICTURES = tuple(VAL_FIRST_INDEX + index for index in (0, 17, 18))  # hair, holes, foliage: none easy, none a grid
DRAWN_PX = 1024  # long side they are drawn with, and then enlarged
LEAST_ROUNDS = 3  # through the pictures
GAIN, CERTAIN = 0.2, 1e-5  # alpha that refinement is expected to bring along an edge, and elsewhere


class BenchmarkCase(NamedTuple):
    """What one process measures."""

    preset: str
    size: str
    precision: str
    dense: bool
    device: str
    threads: int | None
    seconds: float


def main() -> int:
    config = parse_cli(BenchmarkConfig, prog="python -m tools.benchmark", description=__doc__)
    device = select_device(config.device)
    if config.out is not None:
        require_writable(config.out, "--out")
    variants = product(config.presets, config.sizes, config.precisions, (False, True) if config.dense else (False,))
    cases = [BenchmarkCase(*variant, str(device), config.threads, config.seconds) for variant in variants]
    rows = []
    for case in progress(cases, desc="benchmark", unit="case"):
        with process_pool(1) as pool:
            rows.append(pool.submit(measure, case).result())
    print(f"{rows[0]['device']}, torch {rows[0]['torch']}; random weights, one photograph at a time")
    cells = {heading: [form.format(row[key]) for row in rows] for key, (heading, form) in TABLE.items()}
    print(pd.DataFrame(cells).to_string(index=False))
    if config.out is not None:
        write_json(config.out / "benchmark.json", {**provenance("tools.benchmark", sys.argv[1:]), "rows": rows})
        save_costs(config.out / "benchmark.png", rows)
        print(f"written: {config.out / 'benchmark.json'}, {config.out / 'benchmark.png'}")
    return 0


def measure(case: BenchmarkCase) -> dict[str, Any]:
    """A row of the table: means over the pictures, medians over the rounds; run in a process of its own."""
    if case.threads is not None:
        torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    device = select_device(case.device)  # a new process: what it sets holds here too
    bench = Bench(build_predictor(case, device), *map(int, case.size.split("x")))
    network, loaded_gb = bench.predictor.network, peak_gb(device)

    encoder, student, refiner = network.student.encoder, network.student, network.refiner
    modules = {"encoder": encoder, "student": student, **({} if refiner is None else {"refiner": refiner})}
    gflop = {"refiner": 0.0} | count_gflop(modules, bench.round)  # a first round, of which the time is not counted
    rounds = [bench.round()]
    while len(rounds) < LEAST_ROUNDS or sum(rounds) < case.seconds:
        rounds.append(bench.round())

    number, seconds = len(PICTURES), statistics.median(rounds) / len(PICTURES)
    timed = bench.watch.calls[number:]
    spent = {stage: sum(call.get(stage, 0.0) for call in timed) for stage in STAGES}
    refined, work = map(statistics.mean, zip(*bench.shares, strict=True))
    parameters = {"encoder": count_parameters(encoder), "refiner": count_parameters(refiner)}
    parameters["decoder"] = count_parameters(student) - parameters["encoder"]
    gflop["decoder"] = gflop["student"] - gflop["encoder"]
    return {
        **case._asdict(),
        **versions(device),
        "refined_share": refined,
        "work_share": work,
        **{f"{part}_parameters": parameters[part] / 1e6 for part in PARTS},
        **{f"{part}_gflop": gflop[part] / number for part in PARTS},
        "seconds": seconds,
        "fastest_seconds": min(rounds) / number,
        "calls": len(timed),
        "images_per_second": 1 / seconds,
        **{f"{stage}_share": spent[stage] / sum(spent.values()) for stage in STAGES},
        "loaded_gb": loaded_gb,
        "peak_gb": peak_gb(device),
    }


def build_predictor(case: BenchmarkCase, device: torch.device) -> Predictor:
    """What `load_model` would make of a checkpoint of the preset."""
    preset = PRESETS[case.preset]()
    network = TSRMatte(**{**asdict(preset.model), "pretrained": False, "backbone_weights": None})
    routing = Routing(**asdict(preset.routing))
    return Predictor(
        for_inference(network, device),
        Preprocess(preset.data.image_size, keep_aspect=preset.data.keep_aspect),
        routing.everything() if case.dense else routing,
        device,
        case.precision,
    )


class Bench:
    """The embedded pictures at one size, predicted in turn by one network.

    Attributes:
        watch: The stages of all calls so far.
        shares: Of each picture, what share of its pixels is refined, and what share of dense refinement's work that is.
    """

    def __init__(self, predictor: Predictor, width: int, height: int):
        self.predictor, self.watch = predictor, Stopwatch(predictor.device)
        self.size = (height, width)
        self.pictures = drawn_pictures(width, height)
        self.current: tuple[int, np.ndarray]  # index and matte of the picture that is predicted
        self.errors: list[Tensor] = []  # of the pictures, made in the first round
        self.shares: list[tuple[float, float]] = []
        student = predictor.network.student
        student.register_forward_pre_hook(lambda module, inputs: self.watch.lap("preprocess"))
        student.register_forward_hook(self._expect_error)

    @torch.inference_mode()
    def round(self) -> float:
        """Predicts each picture once; returns the seconds that took."""
        for index, (rgb, matte) in enumerate(self.pictures):
            self.current = (index, matte)
            enlarged = cv2.resize(rgb, self.size[::-1], interpolation=cv2.INTER_CUBIC)
            self.watch.start()
            # As predict_alpha does.
            logits = predict(self.predictor, enlarged).refined_logits
            self.watch.lap("refine")
            to_alpha(logits, out=logits)
            self.watch.lap("to alpha")
        return sum(sum(call.values()) for call in self.watch.calls[-len(self.pictures) :])

    def _expect_error(self, module: nn.Module, inputs: Any, output: tuple) -> tuple:
        """Puts the drawn error logits in the place of the random network's."""
        self.watch.lap("coarse")
        coarse_logits, error_logits, features = output
        index, matte = self.current
        if index == len(self.errors):
            self.errors.append(expected_error(matte, error_logits.shape[-2:]).to(error_logits.device))
            self.shares.append(refined_shares(self.predictor, self.errors[-1], self.size))
        self.watch.resume()
        return coarse_logits, self.errors[index], features


def drawn_pictures(width: int, height: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The embedded pictures in the proportions of a size: rgb uint8 (h, w, 3) and alpha uint8 (h, w)."""
    scale = min(1.0, DRAWN_PX / max(width, height))
    size = {"height": max(1, round(height * scale)), "width": max(1, round(width * scale))}
    drawn = [composite(0, index, **size) for index in PICTURES]
    return [(picture.rgb, picture.alpha) for picture in drawn]


def expected_error(matte: np.ndarray, size: Sequence[int]) -> Tensor:
    """Error logits (1, 1, h, w), high where a matte, uint8 (H, W), is neither 0 nor 1, or a pixel beside."""
    alpha = cv2.resize(matte, tuple(size[::-1]), interpolation=cv2.INTER_AREA)
    uncertain = ((alpha > 12) & (alpha < 243)).astype(np.uint8)
    near = torch.from_numpy(cv2.dilate(uncertain, np.ones((3, 3), np.uint8))).bool()
    return torch.logit(torch.where(near, GAIN, CERTAIN))[None, None]


def refined_shares(predictor: Predictor, error_logits: Tensor, size: tuple[int, int]) -> tuple[float, float]:
    """Shares of a picture's (H, W) pixels that are refined, and of the work of refining all of them in tiles."""
    refiner, routing = predictor.network.refiner, predictor.routing
    if refiner is None:
        return 0.0, 0.0
    routed, dense = (choose_patches(error_logits, size, each, refiner.work) for each in (routing, routing.everything()))

    def pixels(patches: Patches) -> int:
        sides = (torch.tensor(size) - patches.corner).clamp(max=patches.side_px)
        return int(sides.prod(dim=1).sum())

    share = sum(map(pixels, routed)) / (size[0] * size[1])
    return share, total_work(routed, refiner.work) / total_work(dense, refiner.work)


if __name__ == "__main__":
    run_script(main)
