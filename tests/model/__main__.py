"""Search the large scenarios too: `python -m tests.model [WORD]` takes those whose name has the word in it."""

import sys
import time

from tests.model.scenarios import DEEP
from tests.model.search import search


def main() -> int:
    word = " ".join(sys.argv[1:])
    chosen = {name: scenario for name, scenario in DEEP.items() if word in name}
    if not chosen:
        print(
            f"no scenario has {word!r} in its name; there are: {'; '.join(DEEP)}", file=sys.stderr
        )
        return 2
    wrong = 0
    for name, scenario in chosen.items():
        begun = time.monotonic()
        found = search(scenario, most=1_000_000)
        print(f"{name}: {found} ({time.monotonic() - begun:.0f} s)", flush=True)
        wrong += bool(found.wrong) or not found.whole
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
