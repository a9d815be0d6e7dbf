"""What is searched: small for every run, larger by `python -m tests.model`."""

from tests.model.two_ends import Scenario

QUICK = {
    "bytes both ways, one path lost": Scenario(writes=(1, 1), cuts=1),
    "a path is given up that was only slow": Scenario(writes=(1, 0), cuts=1, hasty=1),
    "two paths lost": Scenario(writes=(1, 0), cuts=2),
    "checkpoints": Scenario(writes=(1, 0), checkpoints=True),
    "another grant": Scenario(writes=(1, 0), refreshes=1),
    "the caller changes paths": Scenario(writes=(1, 0), cuts=0, moves=2),
    "either end dies": Scenario(writes=(1, 1), cuts=0, crashes=(1, 1)),
    "a program breaks off": Scenario(writes=(1, 0), aborts=1),
    "no path in time": Scenario(writes=(1, 0), outlasted=1),
    "a slow reader": Scenario(writes=(2, 0), window=1, slow_reader=True),
    "opening with early data": Scenario(writes=(0, 1), opening="later", early=True),
    "opening with a handshake": Scenario(writes=(1, 0), opening="handshake"),
}
"""Some seconds together."""

DEEP = QUICK | {
    "a path is given up under bytes both ways": Scenario(writes=(1, 1), cuts=1, hasty=1),
    "bytes both ways, two paths lost": Scenario(writes=(2, 1), cuts=2),
    "two paths lost and one given up": Scenario(writes=(1, 1), cuts=2, hasty=1),
    "all about checkpoints": Scenario(writes=(2, 1), checkpoints=True),
    "the caller changes good paths for lost ones": Scenario(writes=(1, 1), cuts=1, moves=1),
    "either end dies, a path is lost": Scenario(writes=(1, 1), cuts=1, crashes=(1, 1)),
    "a program breaks off, time runs out": Scenario(writes=(1, 1), aborts=1, outlasted=1),
    "slow readers both ways": Scenario(writes=(3, 2), window=2, slow_reader=True),
    "opening, two paths lost": Scenario(writes=(1, 1), cuts=2, opening="later", early=True),
    "a handshake over a slow path": Scenario(writes=(1, 0), cuts=1, hasty=1, opening="handshake"),
}
"""Many minutes together."""
