"""What is searched: small for every run, larger by `python -m tests.model`."""

from tests.model.scenario import Scenario

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
    "the host asks for another path": Scenario(writes=(0, 1), cuts=0, asks=1),
    "the host asks before READY has come": Scenario(writes=(0, 0), cuts=0, asks=1, opening="later"),
    "a slow reader": Scenario(writes=(2, 0), window=1, slow_reader=True),
    "opening with early data": Scenario(writes=(0, 1), opening="later", early=True),
    "opening, and the answer comes with ACCEPT": Scenario(
        writes=(0, 1), cuts=0, hasty=1, opening="later", early=True
    ),
    "opening with a handshake": Scenario(writes=(1, 0), opening="handshake"),
}
"""Some seconds together."""

DEEP = QUICK | {
    "a path is given up under bytes both ways": Scenario(writes=(1, 1), cuts=1, hasty=1),
    "bytes both ways, two paths lost": Scenario(writes=(2, 1), cuts=2),
    "two paths lost and one given up": Scenario(writes=(1, 0), cuts=2, hasty=1),
    "all about checkpoints": Scenario(writes=(2, 1), checkpoints=True),
    "the caller changes good paths for lost ones": Scenario(writes=(1, 1), cuts=1, moves=1),
    "either end dies, a path is lost": Scenario(writes=(1, 1), cuts=1, crashes=(1, 1)),
    "a program breaks off, time runs out": Scenario(writes=(1, 1), aborts=1, outlasted=1),
    "slow readers both ways": Scenario(writes=(2, 1), window=1, slow_reader=True),
    "the host asks twice": Scenario(writes=(1, 0), cuts=0, asks=2),
    "the host asks, a path is only slow": Scenario(
        writes=(1, 0), cuts=0, hasty=1, asks=1, opening="later"
    ),
    "opening, two paths lost": Scenario(writes=(1, 1), cuts=2, opening="later", early=True),
    "a handshake over a slow path": Scenario(writes=(1, 0), cuts=0, hasty=1, opening="handshake"),
}
"""So large that all of them together end within 15 minutes of one core; a byte or a fault more is three times as many states."""

STATES = {
    "bytes both ways, one path lost": 2_530,
    "a path is given up that was only slow": 10_572,
    "two paths lost": 6_278,
    "checkpoints": 3_634,
    "another grant": 5_969,
    "the caller changes paths": 14_069,
    "either end dies": 1_272,
    "a program breaks off": 10_457,
    "no path in time": 6_669,
    "the host asks for another path": 4_455,
    "the host asks before READY has come": 1_792,
    "a slow reader": 4_220,
    "opening with early data": 4_596,
    "opening, and the answer comes with ACCEPT": 11_858,
    "opening with a handshake": 2_317,
    "a path is given up under bytes both ways": 28_118,
    "bytes both ways, two paths lost": 29_835,
    "two paths lost and one given up": 70_129,
    "all about checkpoints": 102_732,
    "the caller changes good paths for lost ones": 64_000,
    "either end dies, a path is lost": 9_120,
    "a program breaks off, time runs out": 76_634,
    "slow readers both ways": 28_374,
    "the host asks twice": 31_185,
    "the host asks, a path is only slow": 60_000,
    "opening, two paths lost": 76_457,
    "a handshake over a slow path": 10_671,
}
"""How many each has, about: from which it is told how long the rest will take."""
