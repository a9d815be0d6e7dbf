"""`make simulate`: `python -m tests.simulation --seeds 1000`, or `--seed 7` for one with its trace."""

import argparse
import multiprocessing
import sys
import time

from tests.simulation.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--seed", type=int, help="one seed, with its trace")
    given = parser.parse_args()
    if given.seed is not None:
        result = run(given.seed)
        print("\n".join([*result.trace, str(result)]))
        return 1 if result.kind else 0
    begun, failed, seconds, well, total = time.monotonic(), [], 0.0, 0, 0
    with multiprocessing.get_context("spawn").Pool() as pool:
        seeds = range(given.first, given.first + given.seeds)
        for result in pool.imap_unordered(run, seeds, chunksize=4):
            seconds, well, total = (
                seconds + result.seconds,
                well + result.well,
                total + result.conversations,
            )
            if result.kind:
                failed.append(result)
                print(result, flush=True)
    print(
        f"{given.seeds} seeds, {seconds / 3600:.1f} hours of plants in {time.monotonic() - begun:.0f} s; "
        f"{well} of {total} conversations ended well; {len(failed)} seeds failed"
    )
    if failed:
        print(f"SEED={min(one.seed for one in failed)} make simulate tells how", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
