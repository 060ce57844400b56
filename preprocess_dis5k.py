"""Rearrange DIS5K as published (DIS-TR, DIS-VD, DIS-TE1 to DIS-TE4), or another dataset, into train/, val/ and test/.

DIS5K's four test sets are pooled in test/ and also kept apart in test/DIS-TE1 to test/DIS-TE4. Nothing that is already
there is made again, so an interrupted run continues where it stopped. manifest.json lists sizes and hashes.
"""

import sys
from pathlib import Path

from config import PreprocessConfig, parse_cli
from utils.errors import printable, run_script
from utils.names import counted
from utils.pairs import find_layout
from utils.parallel import cpu_cores
from utils.preprocess import flatten


def main() -> int:
    config = parse_cli(PreprocessConfig, prog="preprocess_dis5k.py", description=__doc__)
    layout = find_layout(config.dataset)
    target = config.target or Path(f"{layout.name}_Flat")
    source = config.source or Path(layout.name)
    result = flatten(
        source,
        target,
        layout,
        splits=config.splits,
        link=config.link,
        max_side=config.max_side,
        num_workers=config.num_workers or cpu_cores(),
        max_pixels=config.max_pixels,
    )
    for place, count in result.pairs.items():
        print(f"{target / place}: {counted(count, 'pair')}")
    for split in result.absent:
        print(f"{source}: no {split} set")
    print(f"{counted(result.made, 'file')} made, {result.kept} already there")
    for failure in result.failed:
        print(f"failed: {printable(failure)}", file=sys.stderr)
    if result.failed:
        failed = counted(len(result.failed), "sample")
        print(f"{failed} failed; run again when the cause is removed", file=sys.stderr)
    return 1 if result.failed else 0


if __name__ == "__main__":
    run_script(main)
