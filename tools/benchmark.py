"""What networks cost, from photograph to alpha: arithmetic, parameters, time and memory, with random weights.

python -m tools.benchmark [--presets tsr-tiny tsr] [--sizes 1024x1024 3840x2160] [--precisions fp32 bf16] [--dense]

The refiner sees the patches that hold an edge of an embedded picture's matte, as a trained network would route them, or
everything (--dense). Each case has a process of its own, so that its peak of memory is its own.
"""

import json
import shlex
import sys
from dataclasses import asdict
from itertools import product
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch

from config import PRESETS, BenchmarkConfig, parse_cli
from models import Routing, TSRMatte
from utils.costs import count_gflop, peak_gb, time_calls
from utils.errors import run_script
from utils.files import require_writable, write_atomically
from utils.inference import Predictor, autocast, predict_alpha, select_device
from utils.optim import count_parameters
from utils.parallel import process_pool
from utils.plots import save_costs
from utils.progress import progress
from utils.run_folder import versions
from utils.synthetic import composite
from utils.transforms import Preprocess, to_tensor

TABLE = {  # key of a row to its heading and format
    "preset": ("preset", "{}"),
    "size": ("photograph", "{}"),
    "precision": ("precision", "{}"),
    "refined_share": ("refined", "{:.0%}"),
    "parameters_million": ("M param.", "{:.1f}"),
    "student_gflop": ("GFLOP coarse", "{:.0f}"),
    "refiner_gflop": ("refiner", "{:.0f}"),
    "seconds": ("s", "{:.3f}"),
    "coarse_seconds": ("of it coarse", "{:.3f}"),
    "images_per_second": ("images/s", "{:.2f}"),
    "peak_gb": ("peak GB", "{:.2f}"),
}
EDGE = 8.0  # a logit: certain


class Case(NamedTuple):
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
    cases = [Case(*variant, str(device), config.threads, config.seconds) for variant in variants]
    rows = []
    for case in progress(cases, desc="benchmark", unit="case"):
        with process_pool(1) as pool:
            rows.append(pool.submit(measure, case).result())
    print(f"{rows[0]['device']}, torch {rows[0]['torch']}; random weights, one photograph at a time")
    cells = {heading: [form.format(row[key]) for row in rows] for key, (heading, form) in TABLE.items()}
    print(pd.DataFrame(cells).to_string(index=False))
    if config.out is not None:
        text = json.dumps(
            {"command": shlex.join(["python", "-m", "tools.benchmark", *sys.argv[1:]]), "rows": rows}, indent=2
        )
        write_atomically(config.out / "benchmark.json", lambda file: file.write(text.encode()))
        save_costs(config.out / "benchmark.png", rows)
        print(f"written: {config.out / 'benchmark.json'}, {config.out / 'benchmark.png'}")
    return 0


def measure(case: Case) -> dict[str, Any]:
    """A row of the table; run in a process of its own."""
    if case.threads is not None:
        torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    device, preset = torch.device(case.device), PRESETS[case.preset]()
    network = TSRMatte(**{**asdict(preset.model), "pretrained": False, "backbone_weights": None}).eval().to(device)
    routing = None if case.dense else Routing(**asdict(preset.routing))
    predictor = Predictor(network, Preprocess(preset.data.image_size), routing, device, case.precision)
    width, height = map(int, case.size.split("x"))
    rgb, edges = photograph(width, height, preset.data.image_size)
    network.student.register_forward_hook(lambda module, inputs, output: (output[0], edges.to(output[1]), output[2]))
    refined: list[int] = []
    if network.refiner is not None:
        network.refiner.register_forward_hook(lambda module, inputs, output: refined.append(output.numel()))

    gflop = count_gflop(network, lambda: predict_alpha(predictor, rgb))
    share = sum(refined) / (height * width)
    image = predictor.preprocess.coarse(to_tensor(rgb).to(device))[None]

    @torch.inference_mode()
    def coarse() -> None:
        with autocast(device, case.precision):
            network.student(image)

    whole, coarse_alone = (
        time_calls(run, device, least_sec=case.seconds) for run in (lambda: predict_alpha(predictor, rgb), coarse)
    )
    return {
        **case._asdict(),
        **versions(device),
        "refined_share": share,
        "parameters_million": count_parameters(network) / 1e6,
        **{f"{part}_gflop": gflop.get(part, 0.0) for part in ("student", "refiner", "total")},
        "seconds": whole.median_sec,
        "fastest_seconds": whole.fastest_sec,
        "calls": whole.calls,
        "coarse_seconds": coarse_alone.median_sec,
        "images_per_second": 1 / whole.median_sec,
        "peak_gb": peak_gb(device),
    }


def photograph(width: int, height: int, image_size: int) -> tuple[np.ndarray, torch.Tensor]:
    """An embedded picture, uint8 (height, width, 3), and error logits (1, 1, image_size, image_size) of its edges.

    With random weights the network's own error map is noise, and routes everything or nothing.
    """
    drawn = composite(
        0, 3, height=max(1, 512 * height // max(height, width)), width=max(1, 512 * width // max(height, width))
    )
    rgb = cv2.resize(drawn.rgb, (width, height), interpolation=cv2.INTER_CUBIC)
    alpha = cv2.resize(drawn.alpha, (image_size, image_size), interpolation=cv2.INTER_AREA)
    kernel = np.ones((3, 3), np.uint8)
    edges = cv2.dilate(alpha, kernel).astype(int) - cv2.erode(alpha, kernel) > 12
    return rgb, torch.where(torch.from_numpy(edges), EDGE, -EDGE)[None, None]


if __name__ == "__main__":
    run_script(main)
