"""Fuzzing from the command line: `python -m tests.fuzz --minutes 10`, or one input again: `--kind video --seed 7`."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

from tests.fuzz.campaign import KINDS, Campaign

BLOCK = 200  # inputs of one kind before the next kind has its turn


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all in turn")
    parser.add_argument("--minutes", type=float, help="go on for so long")
    parser.add_argument("--count", type=int, help="so many inputs of each kind")
    parser.add_argument("--first", type=int, help="the first seed; default: by the clock")
    parser.add_argument("--seed", type=int, help="only this one, with its whole report")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where failing inputs go")
    options = parser.parse_args()
    kinds = options.kind or list(KINDS)
    campaign = Campaign(keep=options.keep)
    if options.seed is not None:
        for kind in kinds:
            campaign.run(kind, [options.seed])
        print("\n".join(fault.report for fault in campaign.faults) or "no fault")
        return bool(campaign.faults)
    first = options.first if options.first is not None else int(time.time())
    print(f"seeds from {first}; one again: python -m tests.fuzz --kind KIND --seed SEED", flush=True)
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    end = first + options.count if options.count else None if options.minutes else first + BLOCK
    for block in itertools.count(first, BLOCK):
        seeds = range(block, block + BLOCK if end is None else min(end, block + BLOCK))
        for kind in kinds:
            campaign.run(kind, itertools.takewhile(lambda _: time.monotonic() < deadline, seeds))
        print(campaign, flush=True)
        if time.monotonic() >= deadline or (end is not None and block + BLOCK >= end):
            return bool(campaign.faults)
    return 0


if __name__ == "__main__":
    sys.exit(main())
