"""The anatomy of a network: its parts, their shapes and what they cost, observed while it runs.

Nothing here knows a width: modules are watched during a forward pass, which may be one on PyTorch's meta device, where
shapes and arithmetic are real and numbers are not.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from timm.models.swin_transformer import SwinTransformerStage
from torch import Tensor, nn

from models import MaskTeacher, Refiner, TSRMatte
from models.refiner import CELL_PX
from utils.costs import count_gflop
from utils.optim import count_parameters


class Cost(NamedTuple):
    """What a part costs: its parameters, and its arithmetic in GFLOP (a multiplication and an addition are 2 FLOP)."""

    parameters: int
    gflop: float


class Stage(NamedTuple):
    """A module by the map it returns.

    Attributes:
        stride: Pixels of the input along one of the map's.
        channels: Of the map.
        size: (h, w) of the map.
        cost: Of the module.
    """

    stride: int
    channels: int
    size: tuple[int, int]
    cost: Cost


class Convolution(NamedTuple):
    """A convolution: side of its kernel, dilation, channels it returns."""

    kernel: int
    dilation: int
    channels: int


class RefinerAnatomy(NamedTuple):
    """The refiner.

    Attributes:
        cell_px: Side of the square of pixels that is one position of its maps.
        gradient_map: Whether one of them is the image's gradients.
        width: Channels of the blocks.
        blocks: Number of them.
        branches: Of a block, beside each other.
        fused: What follows on the branches, one after the other.
        halo_px: Margin each square is read with.
        cost: Its arithmetic for a megapixel of squares of `side_px`, halos included.
        side_px: Of these squares, without their halo.
    """

    cell_px: int
    gradient_map: bool
    width: int
    blocks: int
    branches: tuple[Convolution, ...]
    fused: tuple[Convolution, ...]
    halo_px: int
    cost: Cost
    side_px: int


class TeacherAnatomy(NamedTuple):
    """The mask teacher.

    Attributes:
        stages: Of its encoder, finest first.
        aligned: Strides at which the student's features are compared with the teacher's.
        cost: Of the encoder.
    """

    stages: tuple[Stage, ...]
    aligned: tuple[int, ...]
    cost: Cost


class Anatomy(NamedTuple):
    """A network, and what trains it.

    Attributes:
        size: (h, w) of the coarse stage's input.
        encoder: Its stages, finest first.
        decoder: The steps of the U-Net, deepest first, without the head.
        stem: The convolution on the image that joins the head, if there is one.
        head: What both outputs are read from.
        outputs: How: coarse logits, and error logits.
        encoder_cost, decoder_cost: The latter with stem and head.
        refiner: None where there is none.
        teacher: Likewise.
    """

    size: tuple[int, int]
    encoder: tuple[Stage, ...]
    decoder: tuple[Stage, ...]
    stem: Stage | None
    head: Stage
    outputs: tuple[Convolution, Convolution]
    encoder_cost: Cost
    decoder_cost: Cost
    refiner: RefinerAnatomy | None
    teacher: TeacherAnatomy | None


def describe_network(network: TSRMatte, teacher: MaskTeacher | None, *, size: tuple[int, int], side_px: int) -> Anatomy:
    """Runs the parts once each and notes what they return.

    Args:
        network: On any device; meta is the quickest.
        teacher: On the same, or None.
        size: (h, w) of the coarse stage's input, px.
        side_px: Of the squares that the refiner's arithmetic is counted for, even.
    """
    student = network.student
    swin = _swin_stages(student.encoder)
    decoder = [student.up16, student.up8, student.up4]
    image = torch.zeros(1, 3, *size, device=_device(network))
    features: list[Tensor] = []
    watched = [student, student.encoder, *swin, *decoder, student.head, *([student.stem] if student.stem else [])]
    seen = _watch(watched, lambda: features.extend(student(image)[2]))

    def stages(modules: Iterable[nn.Module]) -> tuple[Stage, ...]:
        return tuple(seen[module].stage(size) for module in modules)

    whole, encoder = seen[student].cost, seen[student.encoder].cost
    return Anatomy(
        size=size,
        encoder=stages(swin),
        decoder=stages(decoder),
        stem=None if student.stem is None else seen[student.stem].stage(size),
        head=seen[student.head].stage(size),
        outputs=(_convolution(student.alpha_head), _convolution(student.error_head)),
        encoder_cost=encoder,
        decoder_cost=Cost(whole.parameters - encoder.parameters, whole.gflop - encoder.gflop),
        refiner=None if network.refiner is None else _describe_refiner(network.refiner, side_px),
        teacher=None if teacher is None else _describe_teacher(teacher, features, size),
    )


def _describe_refiner(refiner: Refiner, side_px: int) -> RefinerAnatomy:
    side = side_px + 2 * refiner.halo_px
    patch = torch.zeros(1, 4, side, side, device=_device(refiner))
    cost = _watch([refiner], lambda: refiner(patch[:, :3], patch[:, 3:]))[refiner].cost
    block = refiner.blocks[0]
    return RefinerAnatomy(
        cell_px=CELL_PX,
        gradient_map=refiner.shape.gradient_map,
        width=block.mix.out_channels,
        blocks=len(refiner.blocks),
        branches=tuple(_convolution(conv) for conv in (block.point, *block.dilated)),
        fused=(_convolution(block.fuse), _convolution(block.mix)),
        halo_px=refiner.halo_px,
        cost=Cost(cost.parameters, cost.gflop * 1e6 / side_px**2),
        side_px=side_px,
    )


def _describe_teacher(teacher: MaskTeacher, features: list[Tensor], size: tuple[int, int]) -> TeacherAnatomy:
    encoder = teacher.encoder
    modules = _swin_stages(encoder.swin) if hasattr(encoder, "swin") else list(encoder.children())
    taught: list[Tensor] = []
    seen = _watch([encoder, *modules], lambda: taught.extend(teacher(features[0].new_zeros(1, 1, *size))))
    strides = tuple(round(size[0] / f.shape[-2]) for f in features)
    return TeacherAnatomy(tuple(seen[module].stage(size) for module in modules), strides, seen[encoder].cost)


class _Seen(NamedTuple):
    """A module's output: channels and (h, w), of a single map; and its cost."""

    channels: int
    map_size: tuple[int, int]
    cost: Cost

    def stage(self, size: tuple[int, int]) -> Stage:
        return Stage(round(size[0] / self.map_size[0]), self.channels, self.map_size, self.cost)


def _watch(modules: Iterable[nn.Module], run: Callable[[], object]) -> Mapping[nn.Module, _Seen]:
    """What modules return while `run` calls each of them once."""
    parts = {str(index): module for index, module in enumerate(modules)}
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shape = output.shape[1:]  # Swin stages have their channels last
            shapes[module] = (shape[2], *shape[:2]) if isinstance(module, SwinTransformerStage) else tuple(shape)

    hooks = [module.register_forward_hook(note) for module in parts.values()]
    try:
        gflop = count_gflop(parts, run)
    finally:
        for hook in hooks:
            hook.remove()
    seen = {}
    for key, module in parts.items():
        channels, *map_size = shapes.get(module, (0, 0, 0))  # what returns several maps has no shape of its own
        seen[module] = _Seen(channels, tuple(map_size), Cost(count_parameters(module), gflop[key]))
    return seen


def _swin_stages(swin: nn.Module) -> list[SwinTransformerStage]:
    return [module for module in swin.children() if isinstance(module, SwinTransformerStage)]


def _convolution(conv: nn.Conv2d) -> Convolution:
    return Convolution(conv.kernel_size[0], conv.dilation[0], conv.out_channels)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
