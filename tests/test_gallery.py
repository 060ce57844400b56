"""utils.gallery: which images are shown does not depend on the order in which they come."""

import io
import itertools

import numpy as np
from PIL import Image

from utils.gallery import Gallery, error_heat, make_panels
from utils.shrinking import shrink_to_fit


def shown(errors: dict[str, float], order: list[str], each: int) -> tuple[list[str], list[str], int]:
    """Worst and best names, and how many pictures were made for them."""
    gallery, made = Gallery(each), 0
    for name in order:
        low, high = gallery.limits()
        if errors[name] <= low or errors[name] >= high:
            gallery.add(errors[name], name, [])
            made += 1
    return [name for name, _ in gallery.worst()], [name for name, _ in gallery.best()], made


def test_the_extremes_are_kept_in_any_order() -> None:
    errors = {"a": 0.3, "b": 0.1, "c": 0.1, "d": 0.5, "e": 0.5, "f": 0.2, "g": 0.5}  # with ties
    outcomes = {
        (tuple(worst), tuple(best))
        for order in itertools.permutations(errors)
        for worst, best, _ in [shown(errors, list(order), 2)]
    }
    assert outcomes == {(("g", "e"), ("b", "c"))}


def test_few_pictures_are_made_and_none_is_shown_twice() -> None:
    rng = np.random.default_rng(0)
    errors = {str(index): float(error) for index, error in enumerate(rng.permutation(2000))}
    worst, best, made = shown(errors, list(errors), 6)
    assert [errors[name] for name in worst] == [1999, 1998, 1997, 1996, 1995, 1994]
    assert [errors[name] for name in best] == [0, 1, 2, 3, 4, 5]
    assert made < 200
    for number in range(13):
        few = {name: errors[name] for name in list(errors)[:number]}
        worst, best, _ = shown(few, list(few), 6)
        assert sorted(worst + best) == sorted(few)
    assert shown(errors, list(errors), 0) == ([], [], 0)


def test_pictures_that_were_never_made_are_asked_for() -> None:
    gallery = Gallery(1)
    for error, name, panels in ((0.1, "a", []), (0.2, "b", None), (0.3, "c", None)):
        gallery.add(error, name, panels)
    assert gallery.lacking() == ["c"] and gallery.worst() == [] and gallery.best() == [("a", [])]
    gallery.add(0.3, "c", [("truth", b"")])
    assert gallery.lacking() == [] and gallery.worst() == [("c", [("truth", b"")])]
    nothing = Gallery(0)
    nothing.add(0.3, "c", None)
    assert nothing.lacking() == [] == nothing.worst()


def test_panels_show_what_they_say() -> None:
    alpha = np.zeros((300, 900), np.float32)
    alpha[:, 450:] = 1
    rgb = np.full((300, 900, 3), (200, 30, 60), np.uint8)
    panels = dict(make_panels(rgb, alpha, 1 - alpha, side_px=90))
    pictures = {caption: np.array(Image.open(io.BytesIO(jpeg))).astype(int) for caption, jpeg in panels.items()}
    assert list(pictures) == ["image", "true alpha", "predicted alpha", "|predicted - true|"]
    assert all(picture.shape[:2] == (30, 90) for picture in pictures.values())
    assert abs(pictures["image"][15, 20] - (200, 30, 60)).max() < 8
    assert pictures["true alpha"][15, 20] < 5 and pictures["true alpha"][15, 70] > 250
    assert pictures["predicted alpha"][15, 20] > 250
    assert pictures["|predicted - true|"].min() > 100  # wrong everywhere: the bright end
    assert [caption for caption, _ in make_panels(None, alpha, alpha)] == list(pictures)[1:]
    assert error_heat(alpha, alpha).max() < 10


def test_shrinking_keeps_the_shape_and_never_enlarges() -> None:
    assert shrink_to_fit(np.zeros((10, 8000), np.uint8), 400).shape == (1, 400)
    small = np.zeros((10, 20, 3), np.uint8)
    assert shrink_to_fit(small, 400) is small
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    expected = picture.reshape(10, 4, 15, 4, 3).mean((1, 3))[..., ::-1]
    assert np.abs(shrink_to_fit(picture[..., ::-1], 15) - expected).max() <= 0.5  # a view that runs backwards
