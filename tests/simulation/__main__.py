"""`make simulate`: `python -m tests.simulation --seeds 1000`, or `--seed 7` for one with its trace.

Says how far it is every few seconds, and at the end how many seeds ran and which failed. Ends with 0 when all seeds held,
1 when one failed, 130 when it was interrupted before the last.
"""

import argparse
import os
import sys

from tests.simulation.many import many
from tests.simulation.run import run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--seed", type=int, help="one seed, with its trace")
    parser.add_argument("--jobs", type=int, help="processes (default: one for each core)")
    parser.add_argument(
        "--brief", action="store_true", help="few seconds of faults, as in the tests"
    )
    given = parser.parse_args()
    if given.seed is not None:
        result = run(given.seed, brief=given.brief)
        print("\n".join([*result.trace, str(result)]))
        return 1 if result.kind else 0
    jobs = given.jobs or len(os.sched_getaffinity(0))
    return many(range(given.first, given.first + given.seeds), jobs, brief=given.brief)


if __name__ == "__main__":
    sys.exit(main())
