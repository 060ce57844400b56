"""Rearrange DIS5K as published (DIS-TR, DIS-VD, DIS-TE1 to DIS-TE4) into train/, val/ and test/.

The four test sets are pooled in test/ and also kept apart in test/DIS-TE1 to test/DIS-TE4. Nothing that is already
there is made again, so an interrupted run continues where it stopped.
"""

import sys

from config import PreprocessConfig, parse_cli
from utils.errors import run_script
from utils.preprocess import flatten_dis5k


def main() -> int:
    config = parse_cli(PreprocessConfig, prog="preprocess_dis5k.py", description=__doc__)
    result = flatten_dis5k(config.source, config.target, link=config.link, num_workers=config.num_workers)
    for place, count in result.pairs.items():
        print(f"{config.target / place}: {count} pairs")
    print(f"{result.made} files made, {result.kept} were there")
    for failure in result.failed:
        print(f"failed: {failure}", file=sys.stderr)
    if result.failed:
        print(f"{len(result.failed)} files failed; run again when the cause is removed", file=sys.stderr)
    return 1 if result.failed else 0


if __name__ == "__main__":
    run_script(main)
