"""The rule that keeps a device on the LAN from passing as the host itself: made once, taken back, missed aloud."""

from typing import Any

from edge.doctor.examining import senders
from edge.intercept.guard import Guard
from tests.support.changes import Changes


async def test_it_is_made_once_and_taken_back():
    changes: Any = Changes()
    guard = Guard(changes, "ferrule0")
    await guard.put()
    await guard.put()
    (rules,) = changes.made
    assert (rules.table, guard.problem) == ("ferrule0_tun", "")
    assert 'oifname "ferrule0" fib saddr type local drop' in rules.rules
    assert "priority srcnat + 10" in rules.rules, "what gets such an address on the way, too"
    await guard.take()
    await guard.take()
    assert changes.made == []


async def test_where_it_cannot_be_made_that_is_said_until_it_can():
    changes: Any = Changes()
    changes.refuses = "nft is not installed on this host"
    guard = Guard(changes, "ferrule0")
    await guard.put()
    assert "counts as this host itself" in guard.problem
    assert guard.problem.endswith(changes.refuses)
    changes.refuses = ""
    await guard.put()
    assert (len(changes.made), guard.problem) == (1, "")


def test_the_doctor_says_it_where_nft_is_missing():
    assert senders().ok
    found = senders("nft is not installed on this host")
    assert not found.ok
    assert "install nftables" in found.text
