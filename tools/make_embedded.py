"""Writes the embedded data, procedural composites with exact alpha, and a contact sheet to judge them by.

python -m tools.make_embedded --output data/embedded [--contact-sheet sheet.png]
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from utils.errors import UserError, run_script
from utils.synthetic import write_embedded
from utils.synthetic.sheet import contact_sheet


@dataclass(frozen=True)
class Options:
    """What to write and where."""

    output: Path  # root of {train,val}/{im,gt}
    train: int = 640  # pictures
    val: int = 48  # pictures
    seed: int = 0  # another seed is another set
    long_side: tuple[int, int] = (320, 512)  # least and greatest longer side, pixels
    workers: int | None = None  # processes; one a CPU core if not given
    contact_sheet: Path | None = None  # PNG with the first pictures of both splits


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    if options.output.exists() and not options.output.is_dir():
        raise UserError(f"--output {options.output} is a file: name a folder")
    if options.contact_sheet and options.contact_sheet.suffix.lower() != ".png":
        raise UserError(f"--contact-sheet {options.contact_sheet} must end in .png")
    write_embedded(
        options.output,
        train=options.train,
        val=options.val,
        seed=options.seed,
        long_side=options.long_side,
        workers=options.workers,
    )
    if options.contact_sheet:
        options.contact_sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(options.output).save(options.contact_sheet)
    return 0


if __name__ == "__main__":
    run_script(main)
