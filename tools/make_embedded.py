"""Writes the embedded data, procedural composites with exact alpha, and a contact sheet to judge them by.

python -m tools.make_embedded [--output data/embedded] [--contact-sheet sheet.png]
"""

from pathlib import Path

import numpy as np

from config import EmbeddedConfig, parse_cli
from utils.contact_sheet import Tile, contact_sheet, over_green
from utils.encoding import write_image
from utils.errors import run_script
from utils.files import require_writable
from utils.images import quantise
from utils.pairs import find_pairs, read_pair
from utils.synthetic import write_embedded

SHOWN = 30  # pictures on the contact sheet


def main() -> int:
    options = parse_cli(EmbeddedConfig, prog="python -m tools.make_embedded", description=__doc__)
    require_writable(options.output, "--output")
    if options.contact_sheet:
        require_writable(options.contact_sheet.parent, "--contact-sheet")
    write_embedded(options.output, **options.pictures(), workers=options.workers)
    print(f"{options.train} + {options.val} pictures in {options.output}")
    if options.contact_sheet:
        write_image(options.contact_sheet, draw(options.output))
        print(f"contact sheet {options.contact_sheet}")
    return 0


def draw(root: Path) -> np.ndarray:
    """The first pictures of both splits, uint8 (H, W, 3): each one, its alpha, and its cut-out over green."""
    tiles = []
    for pair in [pair for split in ("val", "train") for pair in find_pairs(root, "embedded", split)][:SHOWN]:
        rgb, alpha = read_pair(pair)
        tiles.append(Tile(pair.name, (rgb, quantise(alpha), over_green(rgb, alpha))))
    return contact_sheet(tiles, columns=3, tile_px=192)


if __name__ == "__main__":
    run_script(main)
