"""A contact sheet of the embedded data: each picture, its alpha, and its cut-out over green."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

GREEN = (60, 190, 90)


def contact_sheet(root: Path, *, count: int = 30, columns: int = 3, tile_px: int = 192) -> Image.Image:
    """The first `count` pictures under root/{val,train}, `columns` triples a row, labelled with their recipes."""
    images = [path for split in ("val", "train") for path in sorted((root / split / "im").glob("*.jpg"))][:count]
    rows = max(1, -(-len(images) // columns))
    sheet = Image.new("RGB", (columns * 3 * tile_px, rows * tile_px), (24, 24, 24))
    for place, path in enumerate(images):
        alpha = Image.open(path.parent.parent / "gt" / f"{path.stem}.png")
        left, top = place % columns * 3 * tile_px, place // columns * tile_px
        for step, view in enumerate(_views(Image.open(path), alpha)):
            tile = ImageOps.pad(view.convert("RGB"), (tile_px - 4, tile_px - 4), Image.Resampling.LANCZOS, (24, 24, 24))
            sheet.paste(tile, (left + step * tile_px + 2, top + 2))
        ImageDraw.Draw(sheet).text(
            (left + 6, top + 4), path.stem.lstrip("0"), (255, 230, 80), stroke_width=1, stroke_fill=0
        )
    return sheet


def _views(rgb: Image.Image, alpha: Image.Image) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Picture, alpha, and alpha * picture over green: without the true foreground, fringes show the old background."""
    opacity = np.asarray(alpha, np.float32)[..., None] / 255
    cut_out = opacity * np.asarray(rgb, np.float32) + (1 - opacity) * np.float32(GREEN)
    return rgb, alpha, Image.fromarray(cut_out.astype(np.uint8))
