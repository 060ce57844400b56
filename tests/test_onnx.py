"""utils.onnx_*: ONNX files give the alphas that PyTorch gives, at every size, or say in one line why they do not."""

import builtins
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from models import Routing
from models.student import BACKBONES
from utils import onnx_export
from utils.checkpoint import FORMAT
from utils.errors import UserError
from utils.inference import Predictor, for_inference, load_model, predict, predict_alpha, with_effort
from utils.model_card import describe_file
from utils.onnx_export import export_onnx
from utils.onnx_metadata import read_onnx_metadata
from utils.onnx_network import OnnxNetwork, OnnxPhotograph, OnnxStudent, part_path
from utils.onnx_photograph import BEFORE, LEVELS, WEIGHTS, photograph_model
from utils.onnx_windows import DOMAIN, expand
from utils.transforms import Preprocess

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CPU = torch.device("cpu")
TOLERANCE = 1e-5
SIZES = [(1, 1), (7, 1), (97, 33), (160, 160), (223, 301)]  # height, width
PARTS = ("photograph", "coarse", "refiner")
PREPROCESS = Preprocess(96, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
ROUTING = Routing(0.1, 1.0, None, patch_px=32, largest_px=128, batch_px=2**15)


class Export(NamedTuple):
    """A network, and the files that were made of it."""

    predictor: Predictor
    files: list[Path]
    description: dict[str, Any]

    @property
    def path(self) -> Path:
        return part_path(self.files[0], "photograph")


@pytest.fixture(scope="module")
def make_export(make_network: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Export]]:
    """`make_export(dtype, **changes)` exports a nano network with few blocks, as the exporter takes its time.

    Its windows of 5 tokens divide no feature map there is, so that every one is padded.
    """
    with pytest.MonkeyPatch.context() as patch:
        name, changes = BACKBONES["nano"]
        patch.setitem(BACKBONES, "nano", (name, {**changes, "depths": (2, 1, 2, 1)}))

        def make_export(dtype: str, **changes: Any) -> Export:
            described = {"window_size": 5, "refiner": True, "refiner_width": 8, "refiner_blocks": 1, **changes}
            predictor = Predictor(for_inference(make_network(**described), CPU), PREPROCESS, ROUTING, CPU)
            settings = {"preprocess": asdict(PREPROCESS), "routing": asdict(ROUTING)}
            description = {"config": {"preset": "déjà vu"}, "network": described, **settings}
            path = tmp_path_factory.mktemp("exports") / "model.onnx"
            files = export_onnx(predictor, path, dtype=dtype, description=description)
            return Export(predictor, files, description)

        yield make_export


@pytest.fixture(scope="module")
def export(make_export: Callable[..., Export]) -> Export:
    """In float32. Not to be changed by a test."""
    return make_export("float32")


@pytest.fixture
def copied(export: Export, tmp_path: Path) -> Callable[..., Path]:
    """`copied(*parts)` copies files, by default all, into an empty folder; returns where the whole graph is."""

    def copied(*parts: str) -> Path:
        for part in parts or PARTS:
            shutil.copy(part_path(export.path, part), tmp_path)
        return tmp_path / export.path.name

    return copied


def run(model: Any, **inputs: np.ndarray) -> list[np.ndarray]:
    """As anybody would, without a line of this project."""
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, inputs)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def channels_first(pictures: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(pictures).transpose(0, 3, 1, 2)


def dense(predictor: Predictor) -> Predictor:
    return replace(predictor, routing=predictor.routing.everything())


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape and a.dtype == b.dtype == np.float32
    return float(np.abs(a - b).max())


# ------------------------------------------------------------------------------------------------ what a graph computes


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 96), (1, 160, 160), (2, 96, 224), (1, 32, 320)], ids=str)
def test_the_coarse_stage_at_every_size(export: Export, shape: tuple[int, int, int]) -> None:
    image = draw(shape[0], 3, *shape[1:])
    with torch.inference_mode():
        expected = export.predictor.network.student(image)
    found = run(part_path(export.path, "coarse"), image=image.numpy())
    assert expected[0].std() > 0.1 and expected[1].std() > 0.1
    for ours, theirs in zip(expected[:2], found, strict=True):
        assert difference(ours.numpy(), theirs) < 1e-4  # of logits


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 32, 32), (2, 6, 40)], ids=str)
def test_the_refiner_at_every_size(export: Export, shape: tuple[int, int, int]) -> None:
    halo = 2 * export.predictor.network.refiner.halo_px
    size = (shape[1] + halo, shape[2] + halo)
    image, coarse_logits = draw(shape[0], 3, *size), draw(shape[0], 1, *size)
    with torch.inference_mode():
        expected = export.predictor.network.refiner(image, coarse_logits)
    (found,) = run(part_path(export.path, "refiner"), image=image.numpy(), coarse_logits=coarse_logits.numpy())
    assert found.shape == (shape[0], 1, *shape[1:])
    assert difference(expected.numpy(), found) < 1e-4


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_whole_graph_is_dense_prediction(export: Export, make_pair: Callable, size: tuple[int, int]) -> None:
    """Of two photographs at a time: none has a share in the other's alpha."""
    rgb, _ = make_pair(*size)
    pictures = [rgb, 255 - rgb[::-1]]
    (alphas,) = run(export.path, rgb=channels_first(pictures))
    assert alphas.shape == (2, 1, *size)
    for alpha, picture in zip(alphas, pictures, strict=True):
        assert difference(alpha[0], predict_alpha(dense(export.predictor), np.ascontiguousarray(picture))) < TOLERANCE


def test_kept_proportions(export: Export, make_pair: Callable) -> None:
    kept = replace(PREPROCESS, keep_aspect=True)
    parts = [onnx.load(part_path(export.path, part)) for part in ("coarse", "refiner")]
    model = photograph_model(*parts, kept, export.predictor.network.refiner.halo_px)
    # Rounded up and down, from a half to the even one, and one step at least.
    sizes = {(90, 160): (64, 96), (160, 90): (96, 64), (100, 240): (32, 96), (100, 120): (64, 96), (9, 90): (32, 96)}
    for size, coarse in sizes.items():
        assert kept.coarse_size(*size) == coarse
        rgb, _ = make_pair(*size)
        ((alpha,),) = run(model, rgb=channels_first([rgb]))
        expected = predict_alpha(dense(replace(export.predictor, preprocess=kept)), rgb)
        assert difference(alpha[0], expected) < TOLERANCE
        assert difference(predict_alpha(dense(export.predictor), rgb), expected) > 100 * TOLERANCE


def test_bytes_are_resized_as_the_preprocessing_does() -> None:
    """Exactly where torch has its kernels for bytes; elsewhere it rounds once, not twice."""
    text = BEFORE.format(domain=DOMAIN, coarse_size="").rpartition("\n")[0]
    graph = f"resize (uint8[b, 3, h, w] rgb, int64[2] coarse_size) => (uint8[b, 3, y, x] small) {{{text}\n}}"
    model = onnx.helper.make_model(onnx.parser.parse_graph(graph), ir_version=10)
    model = expand(model, {"Weights": WEIGHTS, "Levels": LEVELS})
    rng = np.random.default_rng(0)
    for height, width, rows, columns in rng.integers(1, 300, (20, 4)):
        rgb = rng.choice(np.array([0, 3, 128, 255], np.uint8), (1, 3, height, width))
        (found,) = run(model, rgb=rgb, coarse_size=np.array([rows, columns]))
        expected = F.resize(torch.from_numpy(rgb), [int(rows), int(columns)], antialias=True).numpy()
        most = 0 if "AVX" in torch.backends.cpu.get_cpu_capability() else 1
        assert np.abs(found.astype(int) - expected).max() <= most


def test_files_hold_standard_operators_only_and_need_no_other_file(export: Export, capfd: Any) -> None:
    assert [path.name for path in export.files] == ["model.coarse.onnx", "model.refiner.onnx", "model.onnx"]
    for path in export.files:
        onnx.checker.check_model(path, full_check=True)
        model = onnx.load(path, load_external_data=False)
        assert {node.domain for node in model.graph.node} == {""} and not model.functions
        assert all(each.data_location != onnx.TensorProto.EXTERNAL for each in model.graph.initializer)
        onnxruntime.InferenceSession(str(path))
        assert b".py" not in path.read_bytes(), "it tells of the machine it was made on"
    assert capfd.readouterr() == ("", ""), "onnxruntime warns of nothing"


def test_float16_is_half_the_size_and_nearly_equal(make_export: Callable, export: Export, make_pair: Callable) -> None:
    half = make_export("float16")
    for path in half.files:
        whole = part_path(export.path, read_onnx_metadata(path)["part"])
        assert path.stat().st_size < whole.stat().st_size
        model = onnx.load(path)
        sides = {each.type.tensor_type.elem_type for each in [*model.graph.input, *model.graph.output]}
        assert sides <= {onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8}
        types = {each.name: each.data_type for each in model.graph.initializer}
        factors = [types.get(node.input[1]) for node in model.graph.node if node.op_type in ("MatMul", "Conv")]
        assert onnx.TensorProto.FLOAT16 in factors
        # What the pixels meet first, the embedding of patches, is precise.
        assert factors.count(onnx.TensorProto.FLOAT) == (0 if path.name.endswith(".refiner.onnx") else 1)
    assert half.files[0].stat().st_size < 0.6 * export.files[0].stat().st_size
    loaded = load_model(half.path)
    for size in SIZES:
        rgb, _ = make_pair(*size)
        expected = predict_alpha(dense(export.predictor), rgb)
        assert difference(predict_alpha(dense(loaded), rgb), expected) < 1e-2
        assert difference(run(half.path, rgb=channels_first([rgb]))[0][0, 0], expected) < 1e-2


# ------------------------------------------------------------------------------------------------- in PyTorch's place


@pytest.mark.parametrize("size", [*SIZES, (500, 380)], ids=str)
def test_routed_as_in_pytorch(export: Export, make_pair: Callable, size: tuple[int, int]) -> None:
    rgb, _ = make_pair(*size)
    loaded = load_model(export.path)
    assert isinstance(loaded.network, OnnxNetwork) and loaded.routing == ROUTING
    ours, theirs = predict(export.predictor, rgb), predict(loaded, rgb)
    for logits in ("coarse_logits", "error_logits", "refined_logits"):
        assert difference(getattr(ours, logits).numpy(), getattr(theirs, logits).numpy()) < 1e-4
    assert difference(predict_alpha(export.predictor, rgb), predict_alpha(loaded, rgb)) < TOLERANCE
    if size == (500, 380):
        refined = difference(predict_alpha(dense(loaded), rgb), predict_alpha(loaded, rgb))
        assert refined > 0.01, "all is refined: it was not routed"


@pytest.mark.parametrize("effort", [{"refine_budget": 0.1}, {"max_patches": 3}, {"memory_limit": 0.003}], ids=str)
def test_bounds_hold_as_in_pytorch(export: Export, make_pair: Callable, effort: dict[str, Any]) -> None:
    rgb, _ = make_pair(300, 400)
    ours, theirs = (with_effort(each, **effort) for each in (export.predictor, load_model(export.path)))
    assert ours.routing == theirs.routing != ROUTING
    assert difference(predict_alpha(ours, rgb), predict_alpha(theirs, rgb)) < TOLERANCE


@pytest.mark.parametrize("part", PARTS)
def test_any_file_of_an_export_names_it(export: Export, make_pair: Callable, part: str) -> None:
    rgb, _ = make_pair(120, 90)
    loaded = load_model(part_path(export.path, part))
    assert difference(predict_alpha(loaded, rgb), predict_alpha(export.predictor, rgb)) < TOLERANCE


@pytest.mark.parametrize("part", ["coarse", "refiner"])
def test_the_whole_graph_is_not_needed_for_routing(copied: Callable, part: str) -> None:
    path = copied("coarse", "refiner")
    assert isinstance(load_model(part_path(path, part)).network, OnnxNetwork)


def test_the_whole_graph_alone(export: Export, copied: Callable, make_pair: Callable) -> None:
    rgb, _ = make_pair(120, 90)
    path = copied("photograph")
    loaded = load_model(path)
    assert isinstance(loaded.network, OnnxPhotograph)
    assert difference(predict_alpha(loaded, rgb), predict_alpha(dense(export.predictor), rgb)) < TOLERANCE
    with pytest.raises(UserError, match=r"--refine-budget.*model\.onnx.*refines everything; leave them out"):
        with_effort(loaded, refine_budget=0.5)
    with pytest.raises(UserError, match=r"model\.onnx: gives alphas only; put model\.coarse\.onnx"):
        predict(loaded, rgb)


def test_a_network_without_refiner(
    export: Export, make_network: Callable, make_pair: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The coarse stage does not differ, and was exported once.
    monkeypatch.setattr(onnx_export, "_coarse_model", lambda *_: onnx.load(part_path(export.path, "coarse")))
    network = make_network(window_size=5, refiner=False)
    network.student.load_state_dict(export.predictor.network.student.state_dict())
    predictor = replace(export.predictor, network=network)
    description = {**export.description, "network": {**export.description["network"], "refiner": False}}
    files = export_onnx(predictor, tmp_path / "m.onnx", dtype="float32", description=description)
    assert [path.name for path in files] == ["m.coarse.onnx", "m.onnx"]
    rgb, _ = make_pair(97, 130)
    expected, loaded = predict_alpha(predictor, rgb), load_model(tmp_path / "m.onnx")
    assert loaded.network.refiner is None
    assert difference(predict_alpha(loaded, rgb), expected) < TOLERANCE
    assert difference(run(tmp_path / "m.onnx", rgb=channels_first([rgb]))[0][0, 0], expected) < TOLERANCE


def test_no_more_threads_than_pytorch(export: Export) -> None:
    torch.set_num_threads(1)
    session = load_model(export.path).network.student._run._session
    assert session.get_session_options().intra_op_num_threads == 1


# ------------------------------------------------------------------------------------------------- what files say


def test_files_say_how_they_are_fed(export: Export) -> None:
    about = {part: read_onnx_metadata(part_path(export.path, part)) for part in PARTS}
    assert {part: metadata["part"] for part, metadata in about.items()} == {part: part for part in PARTS}
    for metadata in about.values():
        assert json.loads(metadata["tsr_matte"]) == json.loads(json.dumps({"format": FORMAT, **export.description}))
        assert metadata["format"] == FORMAT and metadata["dtype"] == "float32"
        assert json.loads(metadata["mean"]) == list(PREPROCESS.mean)
        assert json.loads(metadata["std"]) == list(PREPROCESS.std)
        numbers = {key: json.loads(metadata[key]) for key in ("image_size", "keep_aspect", "input_multiple", "halo_px")}
        halo_px = export.predictor.network.refiner.halo_px
        assert numbers == {"image_size": 96, "keep_aspect": False, "input_multiple": 32, "halo_px": halo_px}
    assert len({metadata["export"] for metadata in about.values()}) == 1


@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_file_is_noticed(copied: Callable, part: str) -> None:
    """Wherever it is: in weights, which onnxruntime would compute with, too."""
    path = part_path(copied(), part)
    content = path.read_bytes()
    for at in (9, len(content) // 3, len(content) // 2, content.index(b'"routing"')):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(UserError, match=rf"{path.name}: .*(damaged|not an ONNX file)") as told:
            load_model(path)
        assert len(str(told.value).splitlines()) == 1
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=path.name):
            load_model(path)


def test_parts_of_two_exports_are_not_mixed(export: Export, copied: Callable) -> None:
    path = copied()
    refiner = part_path(path, "refiner")
    _rewrite(refiner, refiner.read_bytes(), export="00000000")
    for part in PARTS:
        with pytest.raises(UserError, match=r"of another export than"):
            load_model(part_path(path, part))


def _rewrite(path: Path, content: bytes, **changes: str) -> None:
    """Another export's file, whole and with a right checksum."""
    metadata = read_onnx_metadata(path)
    size = int(metadata.pop("graph_bytes"))
    del metadata["crc32"]
    model = onnx.load_from_string(content[:size])
    onnx_export._write(path, model, {**metadata, **changes})


def test_what_cannot_be_loaded_is_told(export: Export, copied: Callable, tmp_path: Path) -> None:
    path = copied("coarse")
    with pytest.raises(UserError, match=r"model\.refiner\.onnx: missing"):
        load_model(part_path(path, "coarse"))
    with pytest.raises(UserError, match=r"model\.onnx: no such checkpoint"):
        load_model(path)
    shutil.copy(part_path(path, "coarse"), tmp_path / "mine.onnx")
    with pytest.raises(UserError, match=r"mine\.onnx: holds the part 'coarse'.*\.coarse\.onnx"):
        load_model(tmp_path / "mine.onnx")
    foreign = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match=r"foreign\.onnx: not an ONNX file of TSR-Matte"):
        load_model(tmp_path / "foreign.onnx")
    onnx.helper.set_model_props(foreign, {"format": "tsr-matte/1", "part": "photograph"})
    onnx.save(foreign, tmp_path / "old.onnx")
    for read in (load_model, describe_file):
        with pytest.raises(UserError, match=r"old\.onnx: of an earlier version"):
            read(tmp_path / "old.onnx")
    with pytest.raises(UserError, match=r"--precision bf16: model\.onnx .*--dtype float16"):
        load_model(export.path, precision="bf16")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_no_other_device_in_its_place(export: Export, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UserError, match=rf"--device {device}: "):
        OnnxStudent(part_path(export.path, "coarse"), torch.device(device))


def test_a_cuda_that_onnxruntime_gives_up_is_an_error(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on without a word on the CPU where a library is missing."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    session = type("Session", (), {"get_providers": lambda _: ["CPUExecutionProvider"]})
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: session())
    with pytest.raises(UserError, match=r"--device cuda: .*--device cpu"):
        OnnxStudent(part_path(export.path, "coarse"), torch.device("cuda"))


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(
    export: Export, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == missing:
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    use = (
        partial(load_model, export.path)
        if missing == "onnxruntime"
        else partial(export_onnx, export.predictor, tmp_path / "m.onnx", dtype="float32", description={})
    )
    with pytest.raises(UserError, match=rf"pip install.* {missing}\b"):
        use()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_told(export: Export, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be exported again; give --checkpoint"):
        export_onnx(load_model(export.path), tmp_path / "m.onnx", dtype="float32", description={})
    with pytest.raises(UserError, match=r"m\.refiner\.onnx: the name of a part; give --output .*m\.onnx"):
        export_onnx(export.predictor, tmp_path / "m.refiner.onnx", dtype="float32", description={})
