"""A router that forges resets, refusals and resumes: a path is lost and found again, and nothing ends that did not end.

docs/protocol/circuit.md, C-14, C-15, C-60 to C-62; link.md, L-21.
"""

import asyncio
import contextlib

import pytest

from overlay.aio.circuit_roles import Refused
from overlay.errors import Code
from overlay.wire.header import Header, Kind
from tests.support.honest import SERVICE, until
from tests.support.hostile import HostilePlant, echoed, refusal, reworded
from tests.support.meddling import begin, closing, flip, hears, lose_path

# --- what a reset is (L-21, C-32) ---------------------------------------------------------------------


@pytest.mark.parametrize("code", [Code.NORMAL, Code.KILLED, Code.RESTARTED, Code.PROTOCOL])
@pytest.mark.parametrize("whom", ["edge-a", "edge-b", "both"])
async def test_a_reset_is_a_lost_path_and_never_an_end(whom: str, code: Code):
    """Whatever it says: the circuit goes on over a new hop, and no byte is lost or repeated (L-21, C-60)."""
    async with HostilePlant() as plant:
        stream, host = await begin(plant)
        for name in ("edge-a", "edge-b") if whom == "both" else (whom,):
            link, number = plant.router.hop(name)
            plant.router.table.pop((link, number))
            plant.router.put(link, Header(Kind.RESET, 0, 0, number, 0), refusal(code))
        await stream.write(b"one.")
        if (
            whom == "edge-b"
        ):  # the caller does not know yet, and asks for a new path as soon as it does
            await asyncio.sleep(0.05)
            assert not stream._eof
            assert not host._eof
            lose_path(plant)
        await hears(plant, b"begun.one.")
        await stream.write(b"two.")
        await hears(plant, b"begun.one.two.")
        assert not stream.closed.done()
        assert not host.closed.done()
        assert plant.a.security == plant.b.security == []
        assert plant.b.carried == 1
        stream.end()
        assert await closing(stream) is Code.NORMAL


async def test_a_link_that_is_cut_is_a_lost_path_too():
    async with HostilePlant() as plant:
        stream, _ = await begin(plant)
        for link in list(plant.router.listener.links):
            link.close()
        assert await echoed(stream, b"one.")
        await hears(plant, b"begun.one.")
        assert plant.b.carried == 1


@pytest.mark.parametrize("code", [Code.KILLED, Code.GOING_AWAY, Code.REVOKED])
async def test_a_link_that_is_said_to_be_over_kills_nothing(code: Code):
    """GOAWAY says what its sender will do, not what is true (L-32)."""
    async with HostilePlant(routers=2) as plant:
        stream, _ = await begin(plant)
        used = next(router for router in plant.routers if router.hops())
        for link in list(used.links.values()):
            link.goodbye(code, "the plant is dead")
        lose_path(plant)
        assert await echoed(stream, b"one.")
        assert plant.a.security == plant.b.security == []
        assert plant.b.carried == 1


# --- refusals in clear (C-14, C-16, C-62) -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (Code.KILLED, Code.KILLED), (Code.NO_GRANT, Code.NO_GRANT), (Code.EXPIRED, Code.EXPIRED),
        (Code.NORMAL, Code.NO_ROUTE), (Code.RESTARTED, Code.NO_ROUTE), (Code.MAX_SESSION, Code.NO_ROUTE),
        (Code.UNREACHABLE, Code.NO_ROUTE), (Code.TAMPER, Code.NO_ROUTE),
    ],
)  # fmt: skip
async def test_a_refusal_in_clear_before_keys_exist_is_a_failure_to_open(said: Code, meant: Code):
    """C-14: only some codes are believed, and none does more than that this attempt fails."""
    async with HostilePlant() as plant:

        def refuse(router, link, header, payload):
            link.send(Kind.REFUSE, header.circuit, refusal(said))
            return []

        plant.router.meddle = refuse
        with pytest.raises(Refused) as caught:
            await plant.a.dial()
        assert caught.value.code is meant
        plant.router.meddle = None
        assert await echoed(await plant.a.dial(), b"honest")
        assert plant.a.security == []


@pytest.mark.parametrize(
    "code",
    [Code.UNKNOWN_CIRCUIT, Code.KILLED, Code.RESTARTED, Code.NO_GRANT, Code.EXPIRED, Code.NOT_TRUSTED],
)  # fmt: skip
async def test_a_refused_resume_is_a_failed_attempt(code: Code):
    """C-62. UNKNOWN_CIRCUIT makes the caller ask the host for its boot number, which says that it did not restart."""
    async with HostilePlant() as plant:
        stream, _ = await begin(plant)
        lies: list[Header] = []

        def lie(router, link, header, payload):
            if header.kind is Kind.RESUME and link.name == "edge-a" and len(lies) < 2:
                lies.append(header)
                link.send(Kind.REFUSE, header.circuit, refusal(code))
                return []
            return None

        plant.router.meddle = lie
        lose_path(plant)
        assert await echoed(stream, b"one.")
        assert len(lies) == 2
        await hears(plant, b"begun.one.")
        assert plant.b.carried == 1
        assert plant.a.security == plant.b.security == []


async def test_a_host_that_did_restart_says_so_sealed():
    """C-62: the application is reset, and nothing is sent again."""
    async with HostilePlant() as plant:
        stream, _ = await begin(plant)
        await plant.b.restart()
        assert await closing(stream) is Code.RESTARTED
        assert plant.asset.told == [b"begun."]
        assert plant.b.carried == 0
        with pytest.raises(ConnectionResetError):
            await stream.read()


# --- resumes (C-60, C-61) ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", ["flipped", "renumbered", "another grant", "another host", "another service"]
)
async def test_a_resume_that_is_changed_costs_its_hop_only(how: str):
    """The host refuses it and says so in its audit; the caller tries again and nothing is lost (C-61, C-62)."""
    async with HostilePlant() as plant:
        stream, _ = await begin(plant)
        plant.router.links["edge-x"] = plant.router.links["edge-b"]
        longer = plant.grant(conduit="c2", hold_until=plant.now() + 10**15)
        changed: list[Header] = []

        def change(router, link, header, payload):
            if header.kind is not Kind.RESUME or link.name != "edge-a" or changed:
                return None
            changed.append(header)
            if how == "renumbered":
                return [(header._replace(sequence=header.sequence + 1), payload)]
            return [(header, {
                "flipped": flip(payload, payload.index(b"edge-a") - 20),
                "another grant": reworded(payload, grant=longer),
                "another host": reworded(payload, host="edge-x"),
                "another service": reworded(payload, service="plc-b.web"),
            }[how])]  # fmt: skip

        plant.router.meddle = change
        lose_path(plant)
        assert await echoed(stream, b"one.")
        assert changed
        assert plant.b.noticed() == {"tamper": 1}
        assert plant.a.noticed() == {}
        await hears(plant, b"begun.one.")


@pytest.mark.parametrize(
    ("how", "noticed", "code"),
    [
        ("flipped", "tamper", Code.TAMPER), ("repeated", "tamper", Code.TAMPER),
        ("dropped", "refused", Code.PROTOCOL),
    ],
)  # fmt: skip
async def test_the_answer_to_a_resume(how: str, noticed: str, code: Code):
    """C-61: the caller goes on exactly as the answer says, or not at all."""
    async with HostilePlant() as plant:
        stream, host = await begin(plant)

        def change(router, link, header, payload):
            if header.kind is not Kind.RESUME or link.name != "edge-b":
                return None
            if how == "dropped":
                return []
            if how == "repeated":
                return [(header, payload)] * 2
            return [(header, flip(payload, len(payload) - 5))]

        plant.router.meddle = change
        lose_path(plant)
        plant.asset.connections[0].write(b"answer")
        assert await closing(stream) is code
        assert plant.a.noticed() == {noticed: 1}
        assert plant.b.noticed() == {}
        if how == "repeated":
            assert await closing(host) is code
        assert plant.asset.told == [b"begun."]


async def test_an_old_resume_moves_nothing():
    """One path per generation: what was recorded is late and counted, and the circuit stays where it is (C-61)."""
    async with HostilePlant(routers=2) as plant:
        stream, host = await begin(plant)
        lose_path(plant)
        assert await echoed(stream, b"one.")
        used = next(router for router in plant.routers if router.passed(Kind.RESUME, "edge-a"))
        header, payload = used.passed(Kind.RESUME, "edge-a")[0]
        where = (host.link, host.number)
        for router in plant.routers:
            router.open(router.links["edge-b"], payload, Kind.RESUME, header.sequence)
        await until(lambda: plant.b.endpoint.resumed().late == 2)
        assert plant.b.noticed() == {}
        assert (host.link, host.number) == where
        assert await echoed(stream, b"two.")
        await hears(plant, b"begun.one.two.")


async def test_a_resume_that_was_held_back_loses_against_the_next_one():
    """Only the caller raises the generation, and a lower one is never taken again (C-60, C-61)."""
    async with HostilePlant(routers=2) as plant:
        stream, host = await begin(plant)
        held: list[tuple[Header, bytes]] = []

        def hold(router, link, header, payload):
            if header.kind is Kind.RESUME and link.name == "edge-a" and not held:
                held.append((header, payload))
                link.send(Kind.REFUSE, header.circuit, refusal(Code.NO_ROUTE))
                return []
            return None

        for router in plant.routers:
            router.meddle = hold
        lose_path(plant)
        assert await echoed(stream, b"one.")
        header, payload = held[0]
        where = (host.link, host.number)
        plant.router.open(plant.router.links["edge-b"], payload, Kind.RESUME, header.sequence)
        await until(lambda: plant.b.endpoint.resumed().late)
        assert plant.b.noticed() == {}
        assert (host.link, host.number) == where
        assert await echoed(stream, b"two.")


async def test_a_resume_to_the_caller_or_about_nothing_is_refused():
    """C-62: UNKNOWN_CIRCUIT, in clear, or RESET at who only calls (C-64), and nobody is harmed."""
    async with HostilePlant() as plant:
        stream, _ = await begin(plant)
        lose_path(plant)
        assert await echoed(stream, b"one.")
        header, payload = plant.router.passed(Kind.RESUME, "edge-a")[0]
        hop = plant.router.open(plant.router.links["edge-a"], payload, Kind.RESUME, header.sequence)
        other = reworded(payload, circuit=b"c" * 16)
        plant.router.open(plant.router.links["edge-b"], other, Kind.RESUME, header.sequence)
        await until(lambda: plant.router.refusals("edge-b"))
        assert plant.router.refusals("edge-b")[-1].code == Code.UNKNOWN_CIRCUIT
        await until(
            lambda: hop in [one.circuit for one, _ in plant.router.passed(Kind.RESET, "edge-a")]
        )
        assert await echoed(stream, b"two.")


async def test_the_first_path_cannot_be_had_back_by_what_was_said_on_it():
    """The identical OPEN with the caller's CREDIT, once the circuit was resumed elsewhere: never (C-15)."""
    async with HostilePlant(routers=2) as plant:
        stream, host = await begin(plant)
        first = next(router for router in plant.routers if router.hops())
        said = [(h, p) for link, h, p in first.seen if link.name == "edge-a"]
        for link in list(first.links.values()):
            link.close()
        assert await echoed(stream, b"one.")
        await until(lambda: "edge-b" in first.links)
        where = (host.link, host.number)
        link = first.links["edge-b"]
        number = first.open(link, next(p for h, p in said if h.kind is Kind.OPEN))
        for header, payload in said[1:]:
            first.put(link, header._replace(circuit=number), payload)
        await until(lambda: plant.b.endpoint.resumed().late)
        assert plant.b.noticed() == {}
        assert (host.link, host.number) == where
        assert await echoed(stream, b"two.")
        await hears(plant, b"begun.one.two.")
        assert plant.b.carried == 1


async def test_before_a_resume_it_can_only_be_moved_to_and_fro():
    """Before the first RESUME a repeated OPEN and CREDIT do move the host's path: nothing is heard twice, and the caller comes back (C-15)."""
    async with HostilePlant() as plant:
        stream, _ = await begin(plant)
        said = [(h, p) for link, h, p in plant.router.seen if link.name == "edge-a"]
        link = plant.router.links["edge-b"]
        number = plant.router.open(link, next(p for h, p in said if h.kind is Kind.OPEN))
        for header, payload in said[1:]:
            plant.router.put(link, header._replace(circuit=number), payload)
        await asyncio.sleep(0.1)
        assert plant.asset.told == [b"begun."]
        lose_path(plant)
        assert await echoed(stream, b"one.")
        await hears(plant, b"begun.one.")
        assert plant.b.carried == 1


async def test_a_grant_that_is_swapped_on_the_way_of_a_refresh_is_found():
    """A refreshed grant can be read by routers, and is bound by the seal (G-03, C-21)."""
    async with HostilePlant() as plant:
        stream, host = await begin(plant)
        longer = plant.grant(conduit="c9", hold_until=plant.now() + 10**15)

        def swap(router, link, header, payload):
            if header.kind is Kind.CREDIT and header.flags:
                return [(header._replace(length=32 + len(longer)), payload[:32] + longer)]
            return None

        plant.router.meddle = swap
        with contextlib.suppress(Refused):
            stream.refresh(plant.grant(conduit="c2"))
        assert await closing(stream) is Code.TAMPER
        assert plant.b.noticed() == {"tamper": 1}
        assert host.grant is not None
        assert host.grant.conduit == "c1"
        assert stream.service == SERVICE
