"""utils.compositing: exact composites, backgrounds that fill any shape, and two subjects on one layer."""

import cv2
import numpy as np
import pytest

from utils.compositing import Layer, Square, Window, compose, covering_window, cut, merge, read_squares

RNG = np.random.default_rng(3)


def colours(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (*shape, 3), np.uint8)


def soft(*shape: int) -> np.ndarray:
    """Float32 alphas with many pixels that are exactly 0 and exactly 1."""
    return np.clip(RNG.random(shape, np.float32) * 1.6 - 0.3, 0, 1)


# ------------------------------------------------------------------------------------------------------ compose


def test_every_pair_of_levels_is_rounded_to_nearest_at_8_bit_alphas() -> None:
    first, second = np.meshgrid(np.arange(256), np.arange(256))
    for level in (0, 1, 2, 37, 100, 127, 128, 200, 253, 254, 255):
        foreground, background = (np.dstack([each] * 3).astype(np.uint8) for each in (first, second))
        made = compose(foreground, background, np.full(first.shape, np.float32(level) / np.float32(255)))
        nearest = (2 * (level * first + (255 - level) * second) + 255) // 510  # in integers; ties cannot happen
        assert made.dtype == np.uint8 and np.array_equal(made, np.dstack([nearest] * 3))


@pytest.mark.parametrize("shape", [(1, 1), (1, 37), (37, 1), (53, 71)])
def test_any_alpha_is_exact_to_half_a_level_and_0_and_1_are_exact(shape: tuple[int, int]) -> None:
    foreground, background, alpha = colours(*shape), colours(*shape), soft(*shape)
    made = compose(foreground, background, alpha)
    weight = alpha[..., None].astype(np.float64)
    exact = weight * foreground + (1 - weight) * background
    assert made.shape == (*shape, 3) and np.abs(made - exact).max() < 0.5 + 1e-4
    assert np.array_equal(made[alpha == 1], foreground[alpha == 1])
    assert np.array_equal(made[alpha == 0], background[alpha == 0])


def test_compose_changes_nothing_it_is_given_and_takes_views() -> None:
    foreground, background, alpha = colours(8, 20), colours(8, 20), soft(8, 20)
    copies = [each.copy() for each in (foreground, background, alpha)]
    mirrored = compose(foreground[:, ::-1], background[:, ::-1], alpha[:, ::-1])
    assert np.array_equal(mirrored[:, ::-1], compose(foreground, background, alpha))
    assert all(np.array_equal(*pair) for pair in zip(copies, (foreground, background, alpha), strict=True))


# ------------------------------------------------------------------------------------------------- read_squares


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (30, 40)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_squares_are_copies_and_repeat_the_border(shape: tuple[int, int], mirrored: bool) -> None:
    for picture in (colours(*shape), soft(*shape)):
        seen = picture[:, ::-1] if mirrored else picture
        squares = [Square(top, left, side) for top in (-7, 0) for left in (-3, 0) for side in (8, 20)]
        squares.append(Square(shape[0] - 1, shape[1] - 1, 5))
        padded = np.pad(seen, [(20, 20)] * 2 + [(0, 0)] * (picture.ndim - 2), mode="edge")
        for (top, left, side), read in zip(squares, read_squares(seen, squares), strict=True):
            assert np.array_equal(read, padded[top + 20 : top + 20 + side, left + 20 : left + 20 + side])
            assert read.flags.c_contiguous and read.dtype == picture.dtype and not np.shares_memory(read, picture)
        (whole,) = read_squares(seen, None)
        assert np.array_equal(whole, seen) and whole.flags.c_contiguous


# -------------------------------------------------------------------------------------------------------- merge


def test_composing_the_merged_layer_is_composing_one_after_the_other() -> None:
    shape = (60, 80)
    over, under = (Layer(colours(*shape), soft(*shape)) for _ in range(2))
    both = merge(over, under)
    assert both.foreground.dtype == np.uint8 and both.alpha.dtype == np.float32
    np.testing.assert_allclose(both.alpha, 1 - (1 - over.alpha) * (1 - under.alpha), atol=1e-6)
    for background in (colours(*shape), np.zeros((*shape, 3), np.uint8), np.full((*shape, 3), 255, np.uint8)):
        in_turn = compose(over.foreground, compose(under.foreground, background, under.alpha), over.alpha)
        at_once = compose(both.foreground, background, both.alpha)
        assert np.abs(at_once.astype(int) - in_turn).max() <= 1


def test_merge_keeps_what_is_opaque_and_has_colours_where_nothing_is() -> None:
    shape = (4, 6)
    over, under = Layer(colours(*shape), soft(*shape)), Layer(colours(*shape), soft(*shape))
    over.alpha[0], over.alpha[1:3] = 1, 0
    under.alpha[1], under.alpha[2] = 1, 0
    foreground, alpha = merge(over, under)
    assert (alpha[:2] == 1).all() and (alpha[2] == 0).all() and (alpha <= 1).all()
    assert np.array_equal(foreground[0], over.foreground[0])
    assert np.array_equal(foreground[1:3], under.foreground[1:3])  # seen, and unseen but defined
    nothing = Layer(colours(*shape), np.zeros(shape, np.float32))
    assert np.array_equal(merge(over, nothing).alpha, over.alpha)
    shown = over.alpha > 0
    assert np.abs(merge(over, nothing).foreground[shown].astype(int) - over.foreground[shown]).max() <= 1


@pytest.mark.parametrize("level", [1 / 65535, 1 / 255, 3 / 255])
def test_faint_layers_keep_their_hue(level: float) -> None:
    """Divided by their alpha, colours that were stored premultiplied would be far off."""
    red, blue = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 100
    alpha = np.full((2, 2), level, np.float32)
    assert np.abs(merge(Layer(red, alpha), Layer(blue, alpha)).foreground - [100, 0, 50]).max() <= 2


# ------------------------------------------------------------------------------------------- covering_window, cut

SIZES = [(1, 1), (1, 50), (50, 1), (7, 9), (40, 60), (60, 40), (300, 200)]
SHAPES = [(1, 1), (1, 64), (64, 1), (64, 64), (40, 60), (3, 200), (33, 7)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_window_lies_inside_with_the_shapes_aspect_and_enlarges_only_if_it_must(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    least = max(shape[0] / size[0], shape[1] / size[1])
    background = colours(*size)
    for seed in range(12):
        window = covering_window(size, shape, np.random.default_rng(seed))
        assert window.top >= 0 and window.top + window.height <= size[0]
        assert window.left >= 0 and window.left + window.width <= size[1]
        if least <= 1:
            assert window.height >= shape[0] and window.width >= shape[1]
        else:
            assert window.height == size[0] or window.width == size[1]
        # Some scale takes the window to the shape, to within the pixel that windows are rounded to.
        scales = [(wants / (has + 1), wants / max(has - 1, 1e-9)) for wants, has in zip(shape, window[2:], strict=True)]
        assert max(low for low, _ in scales) <= min(high for _, high in scales)
        covered = cut(background, window, shape)
        assert covered.shape == (*shape, 3) and covered.dtype == np.uint8 and covered.flags.c_contiguous


def test_scales_and_places_are_spread_over_all_there_are() -> None:
    windows = [covering_window((300, 400), (100, 100), np.random.default_rng(seed)) for seed in range(400)]
    scales = np.array([100 / window.height for window in windows])
    assert scales.min() < 1 / 3 + 0.02 and scales.max() > 0.98 and abs(scales.mean() - 2 / 3) < 0.05
    largest = [window for window in windows if window.height < 110]
    assert min(window.left for window in largest) < 40 and max(window.left for window in largest) > 250
    ends = {(window.top + window.height, window.left + window.width) for window in windows}
    assert any(bottom == 300 for bottom, _ in ends) and any(right == 400 for _, right in ends)
    assert any(window.top == 0 for window in windows) and any(window.left == 0 for window in windows)
    small = [window for window in windows if window.height < 200]
    assert abs(np.corrcoef([window.top for window in small], [window.left for window in small])[0, 1]) < 0.3


def test_window_is_a_function_of_its_generator() -> None:
    first, again, other = (covering_window((50, 70), (20, 20), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_native_size_is_copied_exactly_and_shrinking_averages() -> None:
    background = colours(12, 20)
    whole = covering_window((12, 20), (12, 20), RNG)
    assert tuple(whole) == (0, 0, 12, 20)
    same = cut(background, whole, (12, 20))
    assert np.array_equal(same, background) and not np.shares_memory(same, background)
    means = background.reshape(3, 4, 5, 4, 3).mean(axis=(1, 3))
    assert np.abs(cut(background, whole, (3, 5)) - means).max() <= 0.5 + 1e-6  # cubic or nearest would alias
    cubic = cv2.resize(background, (40, 24), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(cut(background, whole, (24, 40)), cubic)


def test_window_is_cut_before_it_is_resized() -> None:
    background = np.zeros((40, 60, 3), np.uint8)
    background[10:30, 20:40] = 200
    window = covering_window((40, 60), (10, 10), RNG)._replace(top=10, left=20, height=20, width=20)
    assert (cut(background, window, (10, 10)) == 200).all()


@pytest.mark.parametrize("turn", [False, True])
def test_a_side_that_shrinks_is_averaged_although_the_other_one_grows(turn: bool) -> None:
    """Stripes of 1 px, 1 in 8 of them white: shrunk eight times they are an even grey."""
    background = np.zeros((320, 30, 3), np.uint8)
    background[::8] = 240
    window, shape = Window(0, 0, 320, 30), (40, 60)
    if turn:
        background, window, shape = background.swapaxes(0, 1), Window(0, 0, 30, 320), (60, 40)
    assert (cut(background, window, shape) == 30).all()
    noise = np.random.default_rng(0).integers(0, 256, background.shape, np.uint8)
    averaged = noise.reshape((30, 40, 8, 3) if turn else (40, 8, 30, 3)).mean(axis=2 if turn else 1)
    assert abs(cut(noise, window, shape).std() - averaged.std()) < 3
