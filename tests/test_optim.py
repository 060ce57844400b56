"""utils.optim: the learning rate of a step, and which parameters are decayed."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import train
from config import Config, demo
from models import FeatureAlignment, TSRMatte
from utils.distributed import Processes
from utils.optim import by_depth, count_parameters, learning_rate_factor, parameter_groups, set_learning_rate

RATES = {"backbone": 1e-4, "network": 1e-3, "alignment": 5e-4}


@pytest.mark.parametrize(("warmup", "total"), [(10, 100), (1, 50), (0, 20), (20, 100)])
def test_schedule_rises_to_the_peak_and_falls_to_zero(warmup: int, total: int) -> None:
    factors = [learning_rate_factor(step, warmup_steps=warmup, total_steps=total) for step in range(total + 1)]
    assert max(factors) == 1.0
    assert factors[warmup] == pytest.approx(1.0)
    assert factors[total] == pytest.approx(0.0, abs=1e-12)
    assert all(factor > 0 for factor in factors[:total]), "no step of the run is wasted"
    rise, fall = factors[: warmup + 1], factors[warmup:]
    assert rise == sorted(rise) and fall == sorted(fall, reverse=True)


def test_schedule_by_hand() -> None:
    factors = [learning_rate_factor(step, warmup_steps=4, total_steps=20) for step in (0, 1, 3, 4, 12, 20, 50)]
    assert factors == pytest.approx([0.25, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0])


def test_a_short_run_reaches_its_peak_and_comes_down_again() -> None:
    factors = [learning_rate_factor(step, warmup_steps=500, total_steps=80) for step in range(81)]
    assert factors[15] == factors[16] == 1.0 and factors[80] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("warmup", "total"), [(0, 0), (5, 0), (10, 5), (5, 5), (0, 1)])
def test_short_runs_have_a_rate(warmup: int, total: int) -> None:
    for step in range(max(1, total)):
        assert 0 < learning_rate_factor(step, warmup_steps=warmup, total_steps=total) <= 1


@pytest.fixture(scope="module")
def modules(make_network: Callable[..., TSRMatte]) -> dict[str, nn.Module]:
    network = make_network()
    alignment = FeatureAlignment(network.student.feature_channels, (8, 16))
    return {"backbone": network.student.encoder, "network": network, "alignment": alignment}


def test_every_trainable_parameter_is_in_one_group(modules: dict[str, nn.Module]) -> None:
    frozen = modules["network"].refiner.stem.weight
    frozen.requires_grad_(False)
    try:
        groups = parameter_groups(modules, RATES, 0.05)
    finally:
        frozen.requires_grad_(True)
    grouped = [id(p) for group in groups for p in group["params"]]
    wanted = {id(p) for key in ("network", "alignment") for p in modules[key].parameters()} - {id(frozen)}
    assert len(grouped) == len(set(grouped)) and set(grouped) == wanted
    torch.optim.AdamW(groups)  # it refuses parameters that are in two groups


def test_rates_belong_to_the_first_module_that_holds_a_parameter(modules: dict[str, nn.Module]) -> None:
    rate = {id(p): group["lr"] for group in parameter_groups(modules, RATES, 0.05) for p in group["params"]}
    network = modules["network"]
    for key, module in (("backbone", network.student.encoder), ("network", network.student.head),
                        ("network", network.refiner), ("alignment", modules["alignment"])):  # fmt: skip
        assert {rate[id(p)] for p in module.parameters()} == {RATES[key]}


def test_biases_norms_and_position_biases_are_not_decayed(modules: dict[str, nn.Module]) -> None:
    decay = {id(p): group["weight_decay"] for group in parameter_groups(modules, RATES, 0.05) for p in group["params"]}
    kinds = {"norm": 0, "bias": 0, "position": 0, "matrix": 0}
    for module in modules["network"].modules():
        for name, parameter in module.named_parameters(recurse=False):
            kind = (
                "norm" if isinstance(module, nn.LayerNorm | nn.GroupNorm)
                else "bias" if name == "bias"
                else "position" if name == "relative_position_bias_table"
                else "matrix"
            )  # fmt: skip
            kinds[kind] += 1
            assert decay[id(parameter)] == (0.05 if kind == "matrix" else 0.0), (type(module), name)
    assert min(kinds.values()) > 5


def depth(name: str, blocks: tuple[int, ...] = (2, 2, 2, 2)) -> int:
    """Where an image meets an encoder's parameter, by its name: 0 in the patch embedding, then 1, 2, ... by block."""
    if name.startswith("patch_embed."):
        return 0
    stage, rest = re.fullmatch(r"layers_(\d)\.(.+)", name).groups()
    block = re.match(r"blocks\.(\d+)\.", rest)
    assert block or rest.startswith("downsample."), name
    return 1 + sum(blocks[: int(stage)]) + (int(block[1]) if block else 0)


def test_depth_is_the_order_of_the_encoder(modules: dict[str, nn.Module]) -> None:
    """Each parameter once, in the order in which the encoder has them; merging patches begins a stage."""
    encoder = modules["backbone"]
    parts = by_depth(encoder)
    names = {parameter: name for name, parameter in encoder.named_parameters()}
    assert len(parts) == 1 + 8
    assert [names[p] for part in parts for p in part.parameters()] == list(names.values())
    for at, part in enumerate(parts):
        assert {depth(names[parameter]) for parameter in part.parameters()} == {at}


def built(**optim: Any) -> tuple[TSRMatte, dict[nn.Parameter, dict[str, Any]]]:
    """A network, and the group of each parameter that train.py gives to the optimiser."""
    small = {"window_size": 2, "decoder_width": 16, "refiner_width": 8}
    config: Config = demo()
    config = replace(config, model=replace(config.model, **small), optim=replace(config.optim, **optim))
    network = train.build_network(config, print, resuming=False)
    learner = train.build_learner(config, network, None, Processes(0, 1, torch.device("cpu")))
    return network, {parameter: group for group in learner.optimizer.param_groups for parameter in group["params"]}


@pytest.mark.parametrize("factor", [1.0, 0.8, 0.5])
def test_rates_fall_towards_the_input(factor: float) -> None:
    """By the factor from block to block; the last one, and all but the encoder, have theirs undiminished."""
    network, groups = built(layer_decay=factor, backbone_learning_rate=1e-3, learning_rate=1e-2)
    for name, parameter in network.student.encoder.named_parameters():
        assert groups[parameter]["peak"] == pytest.approx(1e-3 * factor ** (8 - depth(name))), name
    inside = set(network.student.encoder.parameters())
    outside = [parameter for parameter in network.parameters() if parameter not in inside]
    assert {groups[parameter]["peak"] for parameter in outside} == {1e-2}
    assert len(groups) == len(inside) + len(outside)
    assert (len({groups[parameter]["peak"] for parameter in inside}) == 1) == (factor == 1)


def test_what_is_frozen_is_not_optimised() -> None:
    network, groups = built(freeze="encoder", layer_decay=0.5)
    frozen = set(network.student.encoder.parameters())
    assert set(groups) == set(network.parameters()) - frozen


def test_the_factor_multiplies_each_groups_own_peak(modules: dict[str, nn.Module]) -> None:
    optimizer = torch.optim.AdamW(parameter_groups(modules, RATES, 0.05))
    for factor in (0.5, 0.1, 1.0):  # of the peak, not of the last rate
        set_learning_rate(optimizer, factor)
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert rates == pytest.approx({name: factor * peak for name, peak in RATES.items()})


def test_count_parameters() -> None:
    assert count_parameters(nn.Linear(3, 4)) == 16
    assert count_parameters(None) == 0
