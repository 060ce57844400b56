"""Writes the embedded data, procedural composites with exact alpha, and a contact sheet to judge them by.

python -m tools.make_embedded [--output data/embedded] [--contact-sheet sheet.png]
"""

from config import EmbeddedConfig, parse_cli
from utils.errors import run_script
from utils.files import require_writable
from utils.synthetic import contact_sheet, write_embedded


def main() -> int:
    options = parse_cli(EmbeddedConfig, prog="python -m tools.make_embedded", description=__doc__)
    require_writable(options.output, "--output")
    write_embedded(
        options.output,
        train=options.train,
        val=options.val,
        long_side=options.long_side,
        seed=options.seed,
        workers=options.workers,
    )
    print(f"{options.train} + {options.val} pictures in {options.output}")
    if options.contact_sheet:
        options.contact_sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(options.output).save(options.contact_sheet)
        print(f"contact sheet {options.contact_sheet}")
    return 0


if __name__ == "__main__":
    run_script(main)
