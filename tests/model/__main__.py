"""Search the large scenarios, too: all of them take 10 to 15 minutes of CPU (two cores: half of that) and 300 MB; how far it is
goes to standard error. With words, those whose name has them in it."""

import argparse
import sys
import time

from tests.model.scenarios import DEEP, STATES
from tests.model.search import Found, search
from tests.support.progress import Part, done_in_turn


def searched(name: str) -> tuple[Found, float]:
    """What is found, and the CPU seconds that it took."""
    begun = time.process_time()
    return search(DEEP[name], most=1_000_000), time.process_time() - begun


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("word", nargs="*", help="of the names of scenarios")
    parser.add_argument("--jobs", type=int, help="processes at once; default: one for each core")
    given = parser.parse_args()
    word = " ".join(given.word)
    chosen = [name for name in DEEP if word in name]
    if not chosen:
        print(
            f"no scenario has {word!r} in its name; there are: {'; '.join(DEEP)}", file=sys.stderr
        )
        return 2
    parts = [Part(name, STATES[name], searched, (name,)) for name in chosen]
    states = wrong = 0
    for name, (found, spent) in zip(chosen, done_in_turn(parts, given.jobs), strict=True):
        print(f"{name}: {found} ({spent:.0f} s of CPU)", flush=True)
        states += found.states
        wrong += bool(found.wrong) or not found.whole
    print(f"{len(chosen)} scenarios, {states} states; wrong: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
