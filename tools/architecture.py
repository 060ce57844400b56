"""Draws the network of a preset: its stages, shapes and costs, read off the network itself, and what trains it.

python -m tools.architecture [--preset tsr] [--output figures/tsr_architecture.png]

No weights are needed, nor made: the network is built and run on PyTorch's meta device, which knows shapes alone.
"""

from dataclasses import asdict

import torch

from config import PRESETS, ArchitectureConfig, Config, parse_cli
from models import MaskTeacher, Routing, TSRMatte
from utils.anatomy import Anatomy, describe_network
from utils.architecture_plot import Captions, draw_architecture
from utils.errors import run_script
from utils.example import Example, make_example
from utils.files import require_writable
from utils.losses import ALPHA_LOSSES
from utils.transforms import Preprocess

PHOTOGRAPH = (1536, 2048)  # (H, W) of the picture that is shown, px
SPELLED = {"l1": "L1", "laplacian": "Laplacian", "ssim": "SSIM"}  # names of losses that are not written as they are
MOST_CROPS = 4  # of a picture's training crops that are shown


def main() -> int:
    options = parse_cli(ArchitectureConfig, prog="python -m tools.architecture", description=__doc__)
    require_writable(options.output.parent, "--output")
    config = PRESETS[options.preset]()
    network, teacher = build(config)
    sheet = draw_architecture(anatomy_of(config, network, teacher), example_of(config, network), captions_of(config))
    sheet.write(options.output)
    print(options.output)
    return 0


def build(config: Config) -> tuple[TSRMatte, MaskTeacher | None]:
    """Network and teacher, without weights."""
    model, options = config.model, config.teacher
    with torch.device("meta"):
        network = TSRMatte(**{**asdict(model), "pretrained": False, "backbone_weights": None}).eval()
        if options.teacher == "none":
            return network, None
        swin = {"backbone": model.backbone, "window_size": model.window_size}
        return network, MaskTeacher(options.teacher, width=options.teacher_width, **swin).eval()


def anatomy_of(config: Config, network: TSRMatte, teacher: MaskTeacher | None) -> Anatomy:
    """The facts, for a photograph of the proportions that are shown."""
    size = preprocess_of(config).coarse_size(*PHOTOGRAPH)
    return describe_network(network, teacher, size=size, side_px=config.routing.largest_px)


def example_of(config: Config, network: TSRMatte) -> Example:
    """The picture that is shown."""
    refiner, crops = network.refiner, config.augment
    return make_example(
        PHOTOGRAPH,
        preprocess_of(config),
        Routing(**asdict(config.routing)),
        None if refiner is None else (refiner.halo_px, refiner.work),
        crops=min(MOST_CROPS, crops.native_crops),
        crop_px=crops.native_px,
    )


def captions_of(config: Config) -> Captions:
    """What the figure says beside the facts."""
    return Captions(
        preset=config.preset,
        backbone=config.model.backbone,
        loss=tuple(SPELLED.get(name, name) for name in ALPHA_LOSSES if getattr(config.loss, f"{name}_weight") > 0),
        teacher=config.teacher.teacher,
        crops=config.augment.native_crops,
        sides_px=(config.routing.patch_px, config.routing.largest_px),
    )


def preprocess_of(config: Config) -> Preprocess:
    """Makes the coarse stage's input."""
    return Preprocess(config.data.image_size, keep_aspect=config.data.keep_aspect)


if __name__ == "__main__":
    run_script(main)
