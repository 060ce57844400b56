"""tools.architecture: the facts are the network's, the figure tells them, and nothing in it covers anything."""

import re
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.path import Path as Outline
from PIL import Image

from config import PRESETS, Config
from models import MaskTeacher, TSRMatte
from models.refiner import DILATIONS
from tools import architecture
from utils.anatomy import Anatomy, describe_network
from utils.diagram import Sheet

SMALL = (384, 512)  # (H, W) of a photograph, px: quickly drawn
ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("no_download")


def changed(preset: str, **sections: dict[str, Any]) -> Config:
    """A preset with other values in some of its sections."""
    config = PRESETS[preset]()
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in sections.items()})


ODD = changed(
    "demo", teacher={"teacher": "swin"}, model={"refiner_blocks": 7, "coarse_stride": 4, "gradient_map": False}
)


@cache
def facts(config: Config) -> Anatomy:
    return architecture.anatomy_of(config, *architecture.build(config))


@cache
def draw(config: Config) -> Sheet:
    """The figure, with a small photograph."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architecture, "PHOTOGRAPH", SMALL)
        example = architecture.example_of(config, architecture.build(config)[0])
    return architecture.draw_architecture(facts(config), example, architecture.captions_of(config))


def texts(sheet: Sheet) -> list[str]:
    return [word.get_text() for word in sheet.words]


# ---------------------------------------------------------------------------------------------------- facts


def test_the_facts_are_what_the_network_is(make_network: Callable[..., TSRMatte]) -> None:
    network = make_network(decoder_width=24, refiner_width=12, refiner_blocks=2)
    anatomy = describe_network(network, None, size=(64, 128), side_px=32)
    student, refiner = network.student, network.refiner

    def count(*modules: torch.nn.Module) -> int:
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    info = student.encoder.feature_info
    assert [stage.channels for stage in anatomy.encoder] == info.channels()
    assert [stage.stride for stage in anatomy.encoder] == info.reduction()
    with torch.inference_mode():
        maps = [tuple(each.shape[1:3]) for each in student.encoder(torch.zeros(1, 3, 64, 128))]  # channels come last
        features = student(torch.zeros(1, 3, 64, 128))[2]
        seen = 32 + 2 * refiner.halo_px
        residual = refiner(torch.zeros(1, 3, seen, seen), torch.zeros(1, 1, seen, seen))
    assert [stage.size for stage in anatomy.encoder] == maps == [(16, 32), (8, 16), (4, 8), (2, 4)]
    found = {stage.stride: (stage.channels, *stage.size) for stage in anatomy.decoder}
    assert found == {
        **{stride: tuple(f.shape[1:]) for stride, f in zip((8, 16), features, strict=True)},
        4: (24, 16, 32),
    }
    assert anatomy.stem[:3] == anatomy.head[:3] == (2, 12, (32, 64))
    assert [conv.kernel for conv in anatomy.outputs] == [1, 1]

    assert anatomy.encoder_cost.parameters == count(student.encoder)
    assert anatomy.decoder_cost.parameters == count(student) - count(student.encoder)
    assert anatomy.refiner.cost.parameters == count(refiner)
    assert sum(stage.cost.parameters for stage in anatomy.decoder) == count(student.up16, student.up8, student.up4)
    stem = 2 * 32 * 64 * 12 * 3 * 9 / 1e9  # positions, channels, inputs, taps
    assert anatomy.stem.cost == pytest.approx((count(student.stem), stem))
    assert anatomy.refiner.cost.gflop == pytest.approx(
        2 * refiner.work(seen - 2 * refiner.halo_px) / 1e9 / (32**2 / 1e6)
    )
    assert residual.shape[-1] == 32 and anatomy.refiner.halo_px == (seen - 32) // 2
    assert (anatomy.refiner.width, anatomy.refiner.blocks) == (12, 2)
    assert [(b.kernel, b.dilation) for b in anatomy.refiner.branches] == [(1, 1), *((3, d) for d in DILATIONS)]
    assert [(conv.kernel, conv.channels) for conv in anatomy.refiner.fused] == [(1, 12), (3, 12)]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_without_numbers_the_facts_are_the_same(make_network: Callable[..., TSRMatte]) -> None:
    config = changed("demo", data={"image_size": 64}, model={"window_size": 2})
    network = TSRMatte(**asdict(config.model)).eval()
    teacher = MaskTeacher("cnn", width=config.teacher.teacher_width, backbone="nano", window_size=2).eval()
    assert describe_network(network, teacher, size=(64, 64), side_px=config.routing.largest_px) == facts(config)


@pytest.mark.parametrize("kind", ["cnn", "swin"])
def test_the_teacher(kind: str) -> None:
    config = changed("demo", teacher={"teacher": kind, "teacher_width": 6})
    _, teacher = architecture.build(config)
    found = facts(config).teacher
    stages = found.stages
    if kind == "cnn":
        assert [(stage.stride, stage.channels) for stage in stages] == [(2, 6), (4, 12), (8, 24), (16, 48)]
    else:
        assert [stage.stride for stage in stages] == [4, 8, 16]
        assert tuple(stage.channels for stage in stages[1:]) == teacher.channels
    assert found.aligned == (8, 16)
    assert found.cost.parameters == sum(each.numel() for each in teacher.parameters())


def test_no_teacher_no_refiner_no_stem() -> None:
    anatomy = facts(changed("demo", teacher={"teacher": "none"}, model={"refiner": False, "coarse_stride": 4}))
    assert anatomy.teacher is anatomy.refiner is anatomy.stem is None
    assert anatomy.head.stride == 4


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"decoder_width": 40}, lambda anatomy: [stage.channels for stage in anatomy.decoder]),
        ({"backbone": "tiny"}, lambda anatomy: anatomy.encoder),
        ({"refiner_width": 8}, lambda anatomy: anatomy.refiner.branches),
        ({"refiner_blocks": 3}, lambda anatomy: anatomy.refiner.halo_px),
        ({"gradient_map": False}, lambda anatomy: anatomy.refiner.gradient_map),
    ],
)
def test_another_network_has_other_facts(change: dict[str, Any], what: Callable[[Anatomy], Any]) -> None:
    assert what(facts(PRESETS["demo"]())) != what(facts(changed("demo", model=change)))


def test_proportions_are_kept_where_the_preset_keeps_them() -> None:
    anatomy = facts(PRESETS["tsr-fast"]())
    assert anatomy.size == (384, 512) and anatomy.encoder[-1].size == (12, 16)


# ---------------------------------------------------------------------------------------------------- figure


def test_the_figure_tells_the_facts() -> None:
    config = changed("demo", model={"decoder_width": 40, "refiner_width": 28, "refiner_blocks": 3})
    shown = texts(draw(config))
    anatomy = facts(config)
    for stage in (*anatomy.encoder, *anatomy.decoder, *anatomy.teacher.stages, anatomy.stem, anatomy.head):
        place = [index for index, text in enumerate(shown) if text == f"1/{stage.stride}"]
        assert str(stage.channels) in [shown[index + 1] for index in place]
    assert {
        "64×64" if stage.stride == 2 else f"{128 // stage.stride}×{128 // stage.stride}" for stage in anatomy.encoder
    } <= {*shown}
    assert {"Swin nano", "3 blocks", f"halo {anatomy.refiner.halo_px} px", *(f"dilation {d}" for d in DILATIONS)} <= {
        *shown
    }
    costs = [text for text in shown if "GFLOP" in text]
    for cost in (anatomy.encoder_cost, anatomy.decoder_cost, anatomy.refiner.cost, anatomy.teacher.cost):
        numbers = [f"{cost.parameters / 1e6:.3g} M parameters", f"{cost.gflop:.3g} GFLOP"]
        assert any(all(number in text for number in numbers) for text in costs), numbers
    assert shown != texts(draw(PRESETS["demo"]()))


def test_what_a_network_lacks_is_not_drawn() -> None:
    whole, alone = texts(draw(PRESETS["demo"]())), texts(draw(PRESETS["baseline"]()))
    for only in ("Training only", "Refiner", "Routing", "expected gain", "loss"):
        assert only in whole and only not in alone
    assert {"Coarse stage", "Enlarging", "alpha, native resolution"} <= {*alone}
    untaught = texts(draw(changed("demo", teacher={"teacher": "none"})))
    assert "Training only" not in untaught and "Refiner" in untaught
    assert "gradient map" in whole and "gradient map" not in texts(draw(ODD))


@pytest.mark.parametrize(
    "config",
    [
        *(PRESETS[name]() for name in ("tsr", "tsr-fast", "baseline")),
        ODD,
        changed("demo", routing={"error_threshold": 1.0}, augment={"native_crops": 16}),  # nothing is worth refining
    ],
    ids=["tsr", "tsr-fast", "baseline", "swin", "nothing"],
)
def test_nothing_covers_a_text(config: Config) -> None:
    sheet = draw(config)
    renderer = FigureCanvasAgg(sheet.figure).get_renderer()
    words = [(word.get_text(), word.get_window_extent(renderer).padded(-1, -5)) for word in sheet.words]
    width, height = sheet.figure.bbox.size
    for index, (text, box) in enumerate(words):
        assert 5 < box.x0 < box.x1 < width - 5 and 5 < box.y0 < box.y1 < height - 5, text
        assert [other for other, place in words[:index] if place.overlaps(box)] == [], text
        for route in sheet.routes:
            crossed = Outline(sheet.axes.transData.transform(route)).intersects_bbox(box, filled=False)
            assert not crossed, f"a line goes through {text!r}"


def test_the_figure_that_is_kept_is_the_networks() -> None:
    """Draw it again with `python -m tools.architecture` after a change. How arithmetic is counted is PyTorch's."""
    kept = Image.open(ROOT / "figures/tsr_architecture.png")
    assert kept.mode == "RGB" and kept.width == 2800

    def stable(words: str) -> list[str]:
        return [line for line in words.splitlines() if not re.search(r"GFLOP|refined|resolution", line)]

    assert stable(kept.text["Description"]) == stable("\n".join(texts(draw(PRESETS["tsr"]()))))


# ---------------------------------------------------------------------------------------------------- tool


def test_the_tool(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "PHOTOGRAPH", SMALL)
    finished = run(architecture.main, "--preset", "demo", "--output", "new/figure.png")
    assert finished.status == 0, finished.err
    assert finished.out == "new/figure.png\n" and finished.created == ["cwd/new", "cwd/new/figure.png"]
    picture = Image.open("new/figure.png")
    assert picture.width == 2800 and 2 < picture.width / picture.height < 2.4
    assert len(picture.getcolors(2**24)) > 1000 and picture.getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--preset", "tsr-tny"), "tsr-tiny"),
        (("--output", "figure.txt"), "--output"),
        (("--teacher", "none"), "--teacher"),
    ],
)
def test_wrong_use(refused: Callable[..., str], flags: tuple[str, ...], named: str) -> None:
    assert named in refused(architecture.main, *flags)


def test_a_file_in_the_way(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "--output" in refused(architecture.main, "--output", tmp_path / "file" / "figure.png")
