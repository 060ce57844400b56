"""models: shapes, the zero start, crops and whole pictures, the halo, the refiner's work, backbone weights."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import (
    BACKBONES,
    Crops,
    FeatureAlignment,
    MaskDecoder,
    MaskTeacher,
    MattingOutput,
    PretrainedWeightsError,
    Refiner,
    Routing,
    TSRMatte,
)
from models.layers import pad_to_multiple
from models.patches import enlarge
from models.refiner import CELL_PX
from models.student import build_backbone

SIZES = [(1, 1), (33, 97), (160, 160), (200, 64)]
ARGUMENTS: dict[str, Any] = {
    "window_size": 5,
    "decoder_width": 16,
    "coarse_stride": 2,
    "drop_path_rate": 0.1,
    "refiner_width": 8,
    "refiner_blocks": 1,
}
EVERYTHING = Routing(0.0, 1.0, None, patch_px=16, largest_px=64, batch_px=4096)


def padded(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Size of a feature map of an input that is padded to a multiple of 32."""
    return tuple(-(-side // 32) * 32 // stride for side in size)


def normalise(rgb: Tensor) -> Tensor:
    return (rgb.float() / 255 - 0.45) / 0.22


def random_rgb(batch: int, size: tuple[int, int]) -> Tensor:
    return torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def check_output(output: MattingOutput, size: tuple[int, int], width: int) -> None:
    assert isinstance(output, MattingOutput)
    for logits in output[:3]:
        assert logits.shape == (1, 1, *size) and logits.dtype == torch.float32
    assert [f.shape for f in output.features] == [(1, 2 * width, *padded(size, 8)), (1, 4 * width, *padded(size, 16))]


def train_step(
    network: TSRMatte, teachers: list[MaskTeacher], alignments: list[FeatureAlignment], size: tuple[int, int]
) -> None:
    """One forward and backward pass in train mode; shapes checked on the way."""
    device = next(network.parameters()).device
    output = network.train()(torch.rand(1, 3, *size, device=device))
    check_output(output, size, ARGUMENTS["decoder_width"])
    loss = sum(logits.mean() for logits in output[:3])
    for teacher, alignment in zip(teachers, alignments, strict=True):
        with torch.no_grad():
            taught = teacher(torch.rand(1, 1, *size, device=device))
        aligned = alignment(output.features)
        for ours, theirs, own in zip(aligned, taught, output.features, strict=True):
            assert ours.shape == theirs.shape and theirs.shape[-2:] == own.shape[-2:]
            loss = loss + (ours - theirs).square().mean()
    network.zero_grad()
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    if device.type != "meta":
        assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in gradients)


# ------------------------------------------------------------------------------------------------- every combination


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_trains_with_every_teacher(backbone: str) -> None:
    """Shapes only (no arithmetic, no memory), so that the large ones take part."""
    with torch.device("meta"):
        network = TSRMatte(backbone=backbone, refiner=True, **ARGUMENTS)
        teachers = [MaskTeacher(kind, width=8, backbone=backbone, window_size=5) for kind in ("cnn", "swin")]
        alignments = [FeatureAlignment(network.student.feature_channels, each.channels) for each in teachers]
        train_step(network, teachers, alignments, (33, 97))


@pytest.mark.parametrize("kind", ["cnn", "swin", "none"])
def test_nano_trains_with_every_teacher_at_any_size(kind: str) -> None:
    torch.manual_seed(0)
    network = TSRMatte(backbone="nano", refiner=True, **ARGUMENTS)
    teachers = [] if kind == "none" else [MaskTeacher(kind, width=8, backbone="nano", window_size=5)]
    alignments = [FeatureAlignment(network.student.feature_channels, each.channels) for each in teachers]
    for size in SIZES:
        train_step(network, teachers, alignments, size)


def test_tiny_trains_for_real() -> None:
    torch.manual_seed(0)
    network = TSRMatte(backbone="tiny", refiner=True, **ARGUMENTS)
    train_step(network, [], [], (33, 97))


@pytest.mark.parametrize("refiner", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_a_prediction_is_at_the_native_size(
    make_network: Callable[..., TSRMatte], size: tuple[int, int], refiner: bool
) -> None:
    network = make_network(refiner=refiner)
    with torch.inference_mode():
        output = network.predict(torch.rand(2, 3, 64, 96), random_rgb(2, size), normalise=normalise, routing=EVERYTHING)
    assert output.coarse_logits.shape == output.error_logits.shape == (2, 1, 64, 96)
    assert output.refined_logits.shape == (2, 1, *size) and output.refined_logits.dtype == torch.float32


def test_padding_throws_no_pixel_away(make_network: Callable[..., TSRMatte]) -> None:
    image = torch.rand(1, 3, 33, 97, requires_grad=True)
    make_network().student(image)[0].square().sum().backward()
    used = image.grad.abs().sum(1)[0] > 0
    assert used.all()


def test_padding_repeats_the_border_at_the_right_and_bottom() -> None:
    x = torch.rand(1, 2, 33, 30)
    padded_x = pad_to_multiple(x, 32)
    assert padded_x.shape == (1, 2, 64, 32)
    assert torch.equal(padded_x[..., :33, :30], x)
    assert torch.equal(padded_x[..., 33:, :30], x[..., 32:, :].expand(1, 2, 31, 30))
    assert torch.equal(padded_x[..., :33, 30:], x[..., 29:].expand(1, 2, 33, 2))
    assert pad_to_multiple(x, 3)[..., 0].shape == (1, 2, 33)


# ------------------------------------------------------------------------------------------------- the zero start


def test_an_untrained_refiner_returns_exactly_the_coarse_logits() -> None:
    torch.manual_seed(0)
    network = TSRMatte(backbone="nano", refiner=True, **ARGUMENTS).eval()
    image, rgb = torch.randn(2, 3, 64, 64), random_rgb(2, (90, 70))
    nothing = Routing(0.0, 0.0, None, patch_px=16, largest_px=64, batch_px=4096)
    with torch.inference_mode():
        for routing, tolerance in ((nothing, 0.0), (EVERYTHING, 1e-5)):
            output = network.predict(image, rgb, normalise=normalise, routing=routing)
            coarse = enlarge(output.coarse_logits, (90, 70))
            assert coarse.std() > 0
            torch.testing.assert_close(output.refined_logits, coarse, atol=tolerance, rtol=0)


def test_without_refiner_or_crops_the_refined_logits_are_the_coarse_ones(make_network: Callable[..., TSRMatte]) -> None:
    image, crops = torch.rand(2, 3, 64, 64), random_crops((64, 64), halo_px=0)
    for network, given in (
        (make_network(refiner=False), None),
        (make_network(refiner=False), crops),
        (make_network(), None),
    ):
        output = network(image, given)
        assert output.refined_logits is output.coarse_logits
    network = make_network(refiner=False)
    output = network.predict(image, random_rgb(2, (31, 40)), normalise=normalise, routing=EVERYTHING)
    assert torch.equal(output.refined_logits, enlarge(output.coarse_logits, (31, 40)))


# ------------------------------------------------------------------------------------------------- crops


def random_crops(size: tuple[int, int], halo_px: int, pooling: tuple[int, ...] = (1, 2, 1), side: int = 24) -> Crops:
    """Three of a batch of two pictures of one native size: inside it and over its borders."""
    torch.manual_seed(7)
    corner = torch.tensor([[0, 0], [size[0] - side // 2, size[1] // 3], [size[0] // 2, size[1] - side]])
    image = torch.randn(3, 3, side + 2 * halo_px, side + 2 * halo_px)
    return Crops(image, torch.tensor([1, 0, 1]), corner, torch.tensor([size] * 3), torch.tensor(pooling))


def test_crops_are_refined_on_the_enlarged_coarse_logits(make_network: Callable[..., TSRMatte]) -> None:
    network, size = make_network(), (150, 130)
    halo = network.refiner.halo_px
    crops = random_crops(size, halo)
    with torch.no_grad():
        output = network(torch.randn(2, 3, 64, 96), crops)
        assert output.refined_logits.shape == (3, 1, 24, 24)
        for i, (b, (top, left), pooling) in enumerate(zip(crops.index, crops.corner.tolist(), (1, 2, 1), strict=True)):
            coarse = F.avg_pool2d(output.coarse_logits[b][None], pooling)
            margin = halo + 24
            whole = F.pad(enlarge(coarse, size), (margin,) * 4, mode="replicate")
            context = whole[..., top + 24 : top + 48 + 2 * halo, left + 24 : left + 48 + 2 * halo]
            expected = context[..., halo:-halo, halo:-halo] + network.refiner(crops.image[i][None], context)
            torch.testing.assert_close(output.refined_logits[i], expected[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (49, 64), (100, 83)])
def test_a_crop_of_the_whole_picture_is_its_dense_prediction(
    make_network: Callable[..., TSRMatte], size: tuple[int, int]
) -> None:
    """Training and inference are one computation."""
    network, image, rgb = make_network(), torch.randn(2, 3, 64, 96), random_rgb(2, size)
    side, halo = max(size) + max(size) % CELL_PX, network.refiner.halo_px
    padding = (halo, halo + side - size[1], halo, halo + side - size[0])
    crops = Crops(
        F.pad(normalise(rgb), padding, mode="replicate"),
        torch.arange(2),
        torch.zeros(2, 2, dtype=torch.int64),
        torch.tensor([size] * 2),
        torch.ones(2, dtype=torch.int64),
    )
    with torch.no_grad():
        trained = network(image, crops)
        predicted = network.predict(image, rgb, normalise=normalise, routing=EVERYTHING)
    assert torch.equal(trained.coarse_logits, predicted.coarse_logits)
    assert torch.equal(trained.error_logits, predicted.error_logits)
    refined = trained.refined_logits[..., : size[0], : size[1]]
    assert (refined - enlarge(trained.coarse_logits, size)).abs().max() > 0.1
    torch.testing.assert_close(predicted.refined_logits, refined, atol=1e-4, rtol=0)


def test_an_untrained_refiner_hands_the_gradient_of_its_crops_on() -> None:
    """As if the enlarged coarse logits were supervised there: d sum(refined) / d coarse."""
    torch.manual_seed(0)
    network = TSRMatte(backbone="nano", refiner=True, **ARGUMENTS).eval()
    crops = random_crops((300, 200), network.refiner.halo_px, pooling=(1, 1, 1))
    output = network(torch.randn(2, 3, 64, 64), crops)
    ours = torch.autograd.grad(output.refined_logits.sum(), output.coarse_logits, retain_graph=True)[0]
    # Each pixel of a crop, repeated border pixels too, shares out a weight of 1 among its neighbours.
    assert ours.sum((1, 2, 3)).tolist() == pytest.approx([24 * 24, 2 * 24 * 24], rel=1e-4)


@pytest.mark.parametrize("coarse_stride", [2, 4])
def test_gradients_reach_every_parameter(coarse_stride: int) -> None:
    torch.manual_seed(0)
    changes = {"drop_path_rate": 0.0, "refiner_blocks": 2, "coarse_stride": coarse_stride}
    network = TSRMatte(backbone="nano", refiner=True, **{**ARGUMENTS, **changes})
    torch.nn.init.normal_(network.refiner.last.weight, std=0.1)
    output = network(torch.randn(2, 3, 160, 160), random_crops((300, 200), network.refiner.halo_px))
    loss = output.refined_logits.square().mean() + (output.error_logits - 1).square().mean()
    loss.backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_the_composition_of_a_batch_does_not_matter(make_network: Callable[..., TSRMatte]) -> None:
    network = make_network()
    rgb, argument = random_rgb(3, (70, 90)), {"normalise": normalise, "routing": EVERYTHING}
    images = torch.randn(3, 3, 64, 96) * torch.tensor([0.1, 1.0, 10.0])[:, None, None, None]
    for mode in (True, False):
        network.train(mode)
        with torch.no_grad():
            together = network.predict(images, rgb, **argument)
            for index in range(3):
                alone = network.predict(images[index : index + 1], rgb[index : index + 1], **argument)
                for ours, theirs in zip(alone[:3], together[:3], strict=True):
                    torch.testing.assert_close(ours[0], theirs[index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("coarse_stride", [2, 4])
def test_the_two_heads_are_the_channels_of_one_convolution(coarse_stride: int) -> None:
    torch.manual_seed(0)
    student = TSRMatte(backbone="nano", refiner=False, **{**ARGUMENTS, "coarse_stride": coarse_stride}).student.eval()
    seen = []
    student.head.register_forward_hook(lambda *call: seen.append(call[-1]))
    heads = (student.alpha_head, student.error_head)
    with torch.no_grad():
        coarse, error, _ = student(torch.randn(2, 3, 33, 97))
        weight, bias = (torch.cat([getattr(head, name) for head in heads]) for name in ("weight", "bias"))
        joint = F.interpolate(F.conv2d(seen[0], weight, bias), size=(64, 128), mode="bilinear", align_corners=False)
    assert coarse.std() > 0 and error.std() > 0
    torch.testing.assert_close(torch.cat([coarse, error], dim=1), joint[..., :33, :97], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backbone", ["nano", "tiny"])
def test_no_network_has_batch_norm(backbone: str) -> None:
    """Nothing to synchronise between processes, and accumulated batches are one large batch."""
    with torch.device("meta"):
        network = TSRMatte(backbone=backbone, refiner=True, **ARGUMENTS)
        teachers = [MaskTeacher(kind, width=8, backbone=backbone, window_size=5) for kind in ("cnn", "swin")]
        decoders = [MaskDecoder(teacher.channels, 8) for teacher in teachers]
        alignments = [FeatureAlignment(network.student.feature_channels, each.channels) for each in teachers]
    for each in (network, *teachers, *decoders, *alignments):
        assert not [module for module in each.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        assert dict(each.named_parameters()).keys() == each.state_dict().keys(), "there are running statistics"


# ------------------------------------------------------------------------------------------------- frozen parts


def trainable_network(**changes: Any) -> TSRMatte:
    """In training mode, with stochastic depth and a refiner that does something."""
    torch.manual_seed(0)
    network = TSRMatte(backbone="nano", refiner=True, **{**ARGUMENTS, "drop_path_rate": 0.5, **changes})
    torch.nn.init.normal_(network.refiner.last.weight, std=0.1)
    return network.train()


def train_on_crops(network: TSRMatte, seed: int = 0) -> MattingOutput:
    """Forward and backward; `seed` is that of stochastic depth."""
    crops = random_crops((300, 200), network.refiner.halo_px)
    image = torch.randn(2, 3, 64, 96)
    torch.manual_seed(seed)
    output = network(image, crops)
    loss = output.refined_logits.square().mean() + (output.error_logits - 1).square().mean()
    loss = loss + sum(f.float().square().mean() for f in output.features)
    loss.backward()
    return output


def gradients(network: TSRMatte) -> dict[str, Tensor]:
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def run_and_count(module: nn.Module, *inputs: Tensor) -> tuple[Any, int]:
    """What the module returns, and the bytes that are kept for the backward pass, parameters excluded."""
    kept: dict[int, Tensor] = {}  # by the address of their storage; they are held, so that no two have one

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = module(*inputs)
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    return output, sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)


@pytest.mark.parametrize(
    ("parts", "frozen"),
    [
        (["encoder"], lambda name: name.startswith("student.encoder.")),
        (["coarse"], lambda name: name.startswith("student.") and not name.startswith("student.error_head.")),
        (["refiner"], lambda name: name.startswith("refiner.")),
        (["encoder", "refiner"], lambda name: name.startswith(("student.encoder.", "refiner."))),
    ],
)
def test_frozen_parts_get_no_gradient_and_the_others_do(parts: list[str], frozen: Callable[[str], bool]) -> None:
    network = trainable_network(drop_path_rate=0.0)
    names = [name for name, _ in network.named_parameters()]
    for part in parts:
        network.freeze(part)
    network.train()
    for name, module in network.named_modules():
        if list(module.parameters(recurse=False)):
            assert module.training != frozen(f"{name}.")
    train_on_crops(network)
    # The alpha's head learns from the refined logits, the error's from its own.
    assert list(gradients(network)) == [name for name in names if not frozen(name)]


@pytest.mark.parametrize("part", ["encoder", "coarse"])
def test_a_frozen_encoder_drops_no_paths(part: str) -> None:
    network, image = trainable_network(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(network(image)[0], network(image)[0])
        network.freeze(part)
        for each in (network, copy.deepcopy(network)):
            each.train()
            assert each.refiner.training and each.student.error_head.training
            assert torch.equal(each(image)[0], each(image)[0])
            before = each.eval()(image)[0]
            assert torch.equal(each.train()(image)[0], before)


def test_nothing_of_a_frozen_coarse_stage_is_kept_for_backward() -> None:
    """But for what the error head sees."""
    network = trainable_network()
    network.freeze("coarse")
    (coarse_logits, error_logits, features), kept = run_and_count(network.train().student, torch.randn(2, 3, 64, 96))
    assert error_logits.requires_grad
    assert not any(each.requires_grad for each in (coarse_logits, *features))
    assert kept == 4 * 2 * (ARGUMENTS["decoder_width"] // 2) * 32 * 48


def test_what_cannot_be_frozen_is_refused(make_network: Callable[..., TSRMatte]) -> None:
    for refiner, part in ((True, "decoder"), (True, "none"), (False, "refiner")):
        with pytest.raises(ValueError, match=f"{part}.*choose.*coarse"):
            make_network(refiner=refiner).freeze(part)


# ------------------------------------------------------------------------------------------------- activations


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointed_activations_give_the_same_gradients(precision: str) -> None:
    """Bit by bit, with stochastic depth, whose draws leave the generator as they would have otherwise."""
    kept, found, states = [], [], []
    for checkpointed in (False, True):
        network = trainable_network()
        names = list(network.state_dict())
        if checkpointed:
            network.student.checkpoint_activations()
        assert list(network.state_dict()) == names
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            kept.append(run_and_count(network.student.encoder, torch.randn(2, 3, 64, 96))[1])
            train_on_crops(network, seed=3)
        found.append(gradients(network))
        states.append(torch.get_rng_state())
    assert found[0].keys() == found[1].keys() == dict(network.named_parameters()).keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert torch.equal(*states)
    assert kept[1] < 0.25 * kept[0]
    network.zero_grad()
    train_on_crops(network, seed=4)
    assert not torch.equal(found[0]["student.alpha_head.weight"], network.student.alpha_head.weight.grad), "paths"


def test_checkpoints_are_a_part_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever timm's environment variable says: the older kind knows `backward` only."""
    monkeypatch.setattr(timm.layers.config, "_USE_REENTRANT_CKPT", True)
    student = trainable_network().student
    student.checkpoint_activations()
    embedding = student.encoder.patch_embed.proj.weight
    assert torch.autograd.grad(student(torch.randn(1, 3, 32, 32))[0].sum(), embedding)[0].any()


def test_activations_of_a_frozen_encoder_need_no_checkpoints() -> None:
    network = trainable_network()
    network.freeze("encoder")
    network.train()
    train_on_crops(network)
    expected = gradients(network)
    network.zero_grad()
    network.student.checkpoint_activations()
    calls = []
    network.student.encoder.layers_0.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    train_on_crops(network)
    assert all(torch.equal(expected[name], gradient) for name, gradient in gradients(network).items())
    assert len(calls) == 1, "computed once"


# ------------------------------------------------------------------------------------------------- refiner


def random_refiner(width: int = 8, blocks: int = 1) -> Refiner:
    torch.manual_seed(1)
    refiner = Refiner(width, blocks)
    torch.nn.init.normal_(refiner.last.weight, std=0.3)
    torch.nn.init.normal_(refiner.last.bias)
    return refiner.requires_grad_(False)


def refine_whole(refiner: Refiner, image: Tensor, coarse: Tensor) -> Tensor:
    """The residual over a whole picture, its border repeated."""
    image, coarse = (F.pad(each, (refiner.halo_px,) * 4, mode="replicate") for each in (image, coarse))
    return refiner(image, coarse)


def test_gradient_map_is_the_slope_of_the_grey_value() -> None:
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    slopes = torch.tensor([[0.3, 0.0], [0.0, -0.6], [0.6, 1.2]])  # of R, G, B, per px along (x, y)
    image = (slopes[:, 0, None, None] * x + slopes[:, 1, None, None] * y)[None]
    gradient = Refiner(4, 1).gradient_map(image)
    assert gradient.shape == (1, 1, 7, 10)
    torch.testing.assert_close(gradient, torch.full_like(gradient, (0.3**2 + 0.2**2) ** 0.5))


def test_gradient_map_of_a_flat_image_can_be_differentiated() -> None:
    image = torch.ones(1, 3, 8, 8, requires_grad=True)
    Refiner(4, 1).gradient_map(image).sum().backward()
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_receptive_field_ends_exactly_at_the_halo(blocks: int) -> None:
    refiner = random_refiner(blocks=blocks)
    for parameter in refiner.parameters():  # no ReLU is closed and no path cancels another
        parameter.abs_().add_(0.01)
    halo, cell, size = refiner.halo_px, CELL_PX, 4 * CELL_PX
    torch.manual_seed(2)
    image = torch.rand(1, 3, size + 2 * halo, size + 2 * halo, requires_grad=True)
    logits = torch.rand(1, 1, *image.shape[-2:], requires_grad=True)
    residual = refiner(image, logits)
    assert residual.shape == (1, 1, size, size)
    top, left = 2 * cell, cell
    residual[..., top : top + cell, left : left + cell].sum().backward()
    for tensor, margin in ((image, 0), (logits, 1)):  # the logits are not seen through the gradient map
        seen = (tensor.grad.abs().sum(1)[0] > 0).nonzero()
        assert seen.min(0).values.tolist() == [top + margin, left + margin]
        assert seen.max(0).values.tolist() == [side + cell + 2 * halo - 1 - margin for side in (top, left)]


@pytest.mark.parametrize("distance", [0, 1])
def test_only_what_lies_in_the_halo_changes_a_patch(distance: int) -> None:
    """By values, with the weights as they come: `distance` 0 is the last pixel of the halo, 1 the one beyond."""
    refiner, side = random_refiner(width=16), 16
    torch.manual_seed(6)
    image, coarse = torch.randn(1, 3, 80, 80), torch.randn(1, 1, 80, 80)
    start, end = 32 - refiner.halo_px, 32 + side + refiner.halo_px
    patch = (slice(None), slice(None), slice(32, 32 + side), slice(32, 32 + side))
    before = refine_whole(refiner, image, coarse)[patch]
    for place in (start - distance, end - 1 + distance):
        for axis in (2, 3):
            other = image.clone()
            other.select(axis, place).mul_(-3).add_(1)
            changed = not torch.equal(refine_whole(refiner, other, coarse)[patch], before)
            assert changed == (distance == 0)


@pytest.mark.parametrize(("width", "blocks"), [(4, 1), (8, 3), (20, 1), (64, 2)])
@pytest.mark.parametrize("side", [2, 32, 70])
@pytest.mark.parametrize("gradient_map", [True, False])
def test_work_is_the_number_of_multiplications(width: int, blocks: int, side: int, gradient_map: bool) -> None:
    refiner = Refiner(width, blocks, gradient_map=gradient_map)
    whole = side + 2 * refiner.halo_px
    with torch.device("meta"):
        image, coarse = torch.empty(1, 3, whole, whole), torch.empty(1, 1, whole, whole)
    with FlopCounterMode(display=False) as counter:
        refiner.to("meta")(image, coarse)
    assert refiner.work(side) == counter.get_total_flops() / 2


def test_switches_of_the_refiner(make_network: Callable[..., TSRMatte]) -> None:
    """Without zero initialisation it changes the alpha at once; without the map nothing computes gradients."""
    image, coarse = torch.rand(1, 3, 60, 60), torch.randn(1, 1, 60, 60)
    assert refine_whole(Refiner(8, 1), image, coarse).abs().max() == 0
    plain = Refiner(8, 1, gradient_map=False, zero_init=False)
    plain.gradient_map = lambda _: pytest.fail("it was computed")
    assert refine_whole(plain, image, coarse).abs().mean() > 0.01
    network = make_network(gradient_map=False)
    assert not network.refiner.shape.gradient_map and network.refiner.stem.in_channels == 16


def test_larger_patches_are_less_work_a_pixel() -> None:
    refiner = Refiner(16, 2)
    costs = [refiner.work(side) / side**2 for side in (32, 64, 128, 256)]
    assert costs == sorted(costs, reverse=True) and costs[0] > 2 * costs[-1]


# ------------------------------------------------------------------------------------------------- teacher


@pytest.mark.parametrize("kind", ["cnn", "swin"])
@pytest.mark.parametrize("size", [(1, 1), (33, 97), (64, 64)])
def test_teacher_features_are_normalised_and_as_large_as_the_students(
    make_network: Callable[..., TSRMatte], kind: str, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    teacher = MaskTeacher(kind, width=8, backbone="nano", window_size=4).eval()
    with torch.inference_mode():
        features = teacher(torch.rand(2, 1, *size))
        student_features = make_network()(torch.rand(2, 3, *size)).features
    assert tuple(f.shape[1] for f in features) == teacher.channels
    for taught, own in zip(features, student_features, strict=True):
        assert taught.shape[-2:] == own.shape[-2:]
        assert taught.mean(1).abs().max() < 1e-4
        torch.testing.assert_close(taught.var(1, unbiased=False), torch.ones_like(taught[:, 0]), atol=0.02, rtol=0)


def test_teacher_tells_mattes_apart() -> None:
    torch.manual_seed(0)
    teacher = MaskTeacher("cnn", width=8, backbone="nano", window_size=4)
    left = torch.zeros(1, 1, 64, 64)
    left[..., :32] = 1
    for a, b in zip(teacher(left), teacher(1 - left), strict=True):
        assert (a - b).square().mean() > 0.1


@pytest.mark.parametrize("kind", ["cnn", "swin"])
@pytest.mark.parametrize("size", [(1, 1), (33, 97)])
def test_teacher_and_decoder_are_an_auto_encoder(kind: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    teacher = MaskTeacher(kind, width=8, backbone="nano", window_size=4)
    decoder = MaskDecoder(teacher.channels, 8)
    alpha = torch.rand(1, 1, *size)
    logits = decoder(teacher(alpha), size)
    assert logits.shape == alpha.shape
    F.binary_cross_entropy_with_logits(logits, alpha).backward()
    assert all(p.grad is not None for p in decoder.parameters())


def test_unknown_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="resnet"):
        MaskTeacher("resnet", width=8, backbone="nano", window_size=4)


# ------------------------------------------------------------------------------------------------- backbone weights


@pytest.fixture(scope="module")
def imagenet() -> dict[str, Tensor]:
    """A state dict as timm publishes them (whole classifier, window 7), of nano's size and with known values."""
    name, changes = BACKBONES["nano"]
    torch.manual_seed(5)
    weights = timm.create_model(name, pretrained=False, **changes).state_dict()
    for key, tensor in weights.items():
        if "relative_position_bias_table" in key:  # a ramp down the rows of relative positions
            ramp = torch.linspace(-1, 1, 13)[:, None].expand(13, 13).reshape(-1, 1)
            tensor.copy_(ramp.expand_as(tensor))
        elif tensor.is_floating_point():
            tensor.normal_()
    return weights


def write_weights(path: Path, weights: dict[str, Tensor]) -> Path:
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in weights.items()}, path)
    else:
        torch.save(weights, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_backbone_weights_of_another_window_are_loaded(
    tmp_path: Path, imagenet: dict[str, Tensor], suffix: str
) -> None:
    file = write_weights(tmp_path / f"swin{suffix}", imagenet)
    network = TSRMatte(
        backbone="nano", refiner=False, pretrained=True, backbone_weights=file, **{**ARGUMENTS, "window_size": 8}
    )
    equal = interpolated = 0
    for key, tensor in network.student.encoder.state_dict().items():
        published = imagenet.get(key.replace("layers_", "layers."))
        if "relative_position_bias_table" in key:
            table = tensor[:, 0].view(15, 15)
            torch.testing.assert_close(table, table[:, :1].expand(15, 15), atol=1e-4, rtol=0)
            torch.testing.assert_close(table, -table.flip(0), atol=1e-4, rtol=0)
            assert (table[1:, 0] > table[:-1, 0]).all() and table.max() > 0.9
            interpolated += 1
        elif published is not None:
            assert torch.equal(tensor, published), key
            equal += 1
    assert interpolated == 8 and equal > 80


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text"])
def test_unreadable_backbone_weights_are_named(
    tmp_path: Path, imagenet: dict[str, Tensor], suffix: str, damage: str
) -> None:
    file = tmp_path / f"swin{suffix}"
    if damage == "truncated":
        content = write_weights(file, imagenet).read_bytes()
        file.write_bytes(content[: len(content) // 2])
    elif damage != "missing":
        file.write_bytes(b"" if damage == "empty" else b"not a state dict")
    with pytest.raises(PretrainedWeightsError, match="swin") as caught:
        build_backbone("nano", window_size=8, backbone_weights=file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["foreign", "incomplete", "shallower", "wider"])
def test_backbone_weights_of_another_network_are_refused(
    tmp_path: Path, imagenet: dict[str, Tensor], fault: str
) -> None:
    """Whatever the file does not hold would stay random, under the name of ImageNet weights."""
    weights = {
        "foreign": {"conv1.weight": torch.zeros(8, 3, 7, 7), "fc.bias": torch.zeros(10)},
        "incomplete": {key: tensor for key, tensor in imagenet.items() if not key.endswith("attn.qkv.weight")},
        "shallower": {key: tensor for key, tensor in imagenet.items() if not key.startswith("layers.2.blocks.1")},
        "wider": {key: torch.cat([tensor, tensor]) for key, tensor in imagenet.items()},
    }[fault]
    file = write_weights(tmp_path / "swin.safetensors", weights)
    with pytest.raises(PretrainedWeightsError, match=r"swin\.safetensors"):
        build_backbone("nano", window_size=8, backbone_weights=file)


def test_backbone_weights_with_code_are_refused(tmp_path: Path) -> None:
    file, marker = tmp_path / "swin.pth", tmp_path / "executed"

    class Code:
        def __reduce__(self):
            return Path.touch, (marker,)

    torch.save({"state_dict": Code()}, file)
    with pytest.raises(PretrainedWeightsError, match=r"swin\.pth"):
        build_backbone("nano", window_size=8, backbone_weights=file)
    assert not marker.exists()


@pytest.mark.parametrize("reason", ["no route to huggingface.co\nRetry later.", ""])
def test_without_network_the_hub_is_named(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    def unreachable(*_: Any, **kwargs: Any) -> None:
        assert kwargs["pretrained"]
        raise OSError(reason)

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(PretrainedWeightsError, match=r"'tiny'.*hub.*swin_tiny.*OSError") as caught:
        TSRMatte(backbone="tiny", refiner=True, pretrained=True, **ARGUMENTS)
    assert "\n" not in str(caught.value)


def test_other_mistakes_are_not_blamed_on_the_weights() -> None:
    with pytest.raises(AssertionError, match="indow"):
        build_backbone("nano", window_size=0)
