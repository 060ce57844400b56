"""models: shapes, the zero start, routing equals dense, the halo, backbone weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from models import (
    BACKBONES,
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
from models.refiner import CELL_PX
from models.routing import refine_dense, refine_patches, refine_routed, select_patches
from models.student import build_backbone

SIZES = [(1, 1), (33, 97), (160, 160), (200, 64)]
ARGUMENTS: dict[str, Any] = {
    "window_size": 5,
    "decoder_width": 16,
    "drop_path_rate": 0.1,
    "refiner_width": 8,
    "refiner_blocks": 1,
}


def padded(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Size of a feature map of an input that is padded to a multiple of 32."""
    return tuple(-(-side // 32) * 32 // stride for side in size)


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


@pytest.mark.parametrize("size", SIZES)
def test_output_is_at_the_native_size(make_network: Callable[..., TSRMatte], size: tuple[int, int]) -> None:
    with torch.inference_mode():
        output = make_network()(torch.rand(1, 3, 64, 64), torch.rand(1, 3, *size))
    assert [logits.shape for logits in output[:3]] == [(1, 1, *size)] * 3


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
    image, native = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 90, 70)
    routings = [None, Routing(16, 0.0, 1.0, 64, 4096), Routing(16, 0.0, 0.0, 64, 4096)]
    with torch.inference_mode():
        for routing in routings:
            output = network(image, native, routing=routing)
            assert torch.equal(output.refined_logits, output.coarse_logits)
    assert output.coarse_logits.std() > 0


def test_without_refiner_both_outputs_are_one_tensor(make_network: Callable[..., TSRMatte]) -> None:
    network = make_network(refiner=False)
    for size in ((64, 64), (31, 40)):
        output = network(torch.rand(1, 3, 64, 64), torch.rand(1, 3, *size))
        assert output.refined_logits is output.coarse_logits


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    network = TSRMatte(backbone="nano", refiner=True, **{**ARGUMENTS, "drop_path_rate": 0.0, "refiner_blocks": 2})
    torch.nn.init.normal_(network.refiner.last.weight, std=0.1)
    output = network(torch.randn(2, 3, 160, 160))
    loss = output.refined_logits.square().mean() + (output.error_logits - 1).square().mean()
    loss.backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_the_composition_of_a_batch_does_not_matter(make_network: Callable[..., TSRMatte]) -> None:
    network = make_network()
    images = torch.randn(3, 3, 64, 96) * torch.tensor([0.1, 1.0, 10.0])[:, None, None, None]
    for mode in (True, False):
        network.train(mode)
        with torch.no_grad():
            together = network(images)
            for index in range(3):
                alone = network(images[index : index + 1])
                for ours, theirs in zip(alone[:3], together[:3], strict=True):
                    torch.testing.assert_close(ours[0], theirs[index], atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- refiner


def random_refiner(width: int = 8, blocks: int = 1) -> Refiner:
    torch.manual_seed(1)
    refiner = Refiner(width, blocks)
    torch.nn.init.normal_(refiner.last.weight, std=0.3)
    torch.nn.init.normal_(refiner.last.bias)
    return refiner.requires_grad_(False)


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
    patch = (slice(None), slice(None), slice(32, 32 + side), slice(32, 32 + side))
    before = refine_dense(refiner, image, coarse)[patch]
    places = [32 - refiner.halo_px - distance, 32 + side - 1 + refiner.halo_px + distance]
    for place in places:
        for axis in (2, 3):
            other = image.clone()
            other.select(axis, place).mul_(-3).add_(1)
            changed = not torch.equal(refine_dense(refiner, other, coarse)[patch], before)
            assert changed == (distance == 0)


@pytest.mark.parametrize("size", [(1, 1), (5, 70), (48, 48), (50, 37)])
def test_routed_patches_equal_dense(size: tuple[int, int]) -> None:
    refiner, patch = random_refiner(blocks=2), 16
    torch.manual_seed(3)
    image, coarse = torch.randn(2, 3, *size), 3 * torch.randn(2, 1, *size)
    dense = refine_dense(refiner, image, coarse)
    assert (dense - coarse).abs().max() > 0.1
    grid = (2, -(-size[0] // patch), -(-size[1] // patch))
    every = torch.ones(grid, dtype=torch.bool)
    one_by_one = [torch.zeros(grid, dtype=torch.bool).index_put(tuple(i), torch.tensor(True)) for i in every.nonzero()]
    for selected in [every, ~every, torch.rand(grid) < 0.5, *one_by_one]:
        routed = refine_patches(refiner, image, coarse, selected, patch, batch_px=3 * patch**2)
        inside = selected.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None, : size[0], : size[1]]
        assert routed.shape == coarse.shape
        assert torch.equal(routed[~inside], coarse[~inside])
        torch.testing.assert_close(routed[inside], dense[inside], atol=1e-5, rtol=0)


def test_tiles_give_the_same_numbers_and_stay_within_the_memory() -> None:
    refiner = random_refiner()
    torch.manual_seed(4)
    image, coarse, error = torch.randn(1, 3, 90, 75), torch.randn(1, 1, 90, 75), torch.randn(1, 1, 90, 75)
    error[..., 40:, :] = -20  # half of the patches are certain
    seen: list[torch.Size] = []
    refiner.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    results, sides = {}, {}
    for dense_above in (1.0, 0.0):
        seen.clear()
        routing = Routing(patch_px=8, error_threshold=0.5, dense_above=dense_above, tile_px=32, batch_px=2048)
        results[dense_above] = refine_routed(refiner, image, coarse, error, routing)
        sides[dense_above] = {shape[-1] - 2 * refiner.halo_px for shape in seen}
        assert all(s[0] * (s[-2] - 2 * refiner.halo_px) * (s[-1] - 2 * refiner.halo_px) <= 2048 for s in seen)
    assert sides == {1.0: {8}, 0.0: {32}}
    torch.testing.assert_close(results[0.0], results[1.0], atol=1e-5, rtol=0)
    changed = [result != coarse for result in results.values()]
    assert torch.equal(*changed) and changed[0].any() and not changed[0][..., 40:, :].any()


@pytest.mark.parametrize("size", [(16, 16), (33, 50), (1, 9)])
def test_one_hot_pixel_selects_its_patch(size: tuple[int, int]) -> None:
    height, width = size
    for y, x in {(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1), (height // 2, width // 2)}:
        error = torch.full((2, 1, *size), -5.0)
        error[1, 0, y, x] = 0.0  # a probability of exactly 0.5
        selected = select_patches(error, 8, 0.5)
        assert selected.dtype == torch.bool and selected.shape == (2, -(-height // 8), -(-width // 8))
        assert selected.nonzero().tolist() == [[1, y // 8, x // 8]]
        assert not select_patches(error, 8, 0.51).any()


def test_a_certain_picture_costs_no_refinement() -> None:
    refiner = random_refiner()
    refiner.register_forward_pre_hook(lambda *_: pytest.fail("the refiner ran"))
    coarse = torch.randn(1, 1, 40, 40)
    routing = Routing(patch_px=8, error_threshold=0.5, dense_above=0.5, tile_px=32, batch_px=2048)
    refined = refine_routed(refiner, torch.randn(1, 3, 40, 40), coarse, torch.full_like(coarse, -9), routing)
    assert torch.equal(refined, coarse)


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
