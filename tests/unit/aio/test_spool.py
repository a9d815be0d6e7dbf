"""The spool: nothing lost, nothing twice, whoever crashes when (U-01, U-02, U-05, U-09)."""

import asyncio
from pathlib import Path

import pytest

from overlay import limits
from overlay.aio import spool as spool_module
from overlay.aio.shelf import DamagedError, Shelf
from overlay.aio.spool import Batch, Spool
from overlay.audit import spool_file
from overlay.audit.event import Event, EventName, Outcome
from overlay.audit.merkle import Frontier, NodeId
from overlay.audit.proofs import Inclusions
from overlay.audit.record import event_of, make_record, read_leaf, signed_event
from overlay.audit.signing import MAX_GROUP, EventReader
from overlay.control.messages import Recorded
from overlay.errors import DecodeError, TrustError
from overlay.identity.certificate import Role
from overlay.identity.trust import Credentials, sign_body
from overlay.wire.bodies import TreeHead
from overlay.wire.codec import Signed, decode
from tests.support.pki import NOW, Pki
from tests.support.simulation import Host, Simulation

PKI = Pki()
CONTROLLER = PKI.controller()
EDGE = PKI.edge()
DIR = Path("/node")


class Log:
    """A controller's audit log, small and honest: K-05, U-03, U-04."""

    def __init__(self) -> None:
        self.leaves: list[bytes] = []
        self._tree = Frontier()
        self._nodes: dict[NodeId, bytes] = {}
        self._known: dict[int, int] = {}
        self.signers = PKI.signers()

    def record(self, batch: Batch) -> Recorded:
        leaf = self.signers.learn(batch.chain, NOW, expired_leaf_ok=True)
        indexes = []
        for place, signed in enumerate(batch.events):
            event, signer = EventReader(self.signers).open(signed, NOW)
            assert (signer.key_id, event.number) == (leaf.key_id, batch.first + place)
            if event.number not in self._known:
                assert event.number == len(self._known) + 1, "gapless"
                self._known[event.number] = len(self.leaves)
                record = make_record(len(self.leaves) + 1, signed)
                self.leaves.append(record.leaf())
                self._nodes.update(self._tree.append(record.hash()))
            indexes.append(self._known[event.number])
        return self.answer(batch.first, indexes)

    def answer(
        self,
        first: int,
        indexes: list[int],
        by: Credentials = CONTROLLER,
        root: bytes | None = None,
    ) -> Recorded:
        size = len(self.leaves)
        head = sign_body(
            TreeHead(size, root or self._tree.root(), NOW), by.key, PKI.anchor, by.chain
        )
        proofs = [
            (
                index,
                self.leaves[index],
                tuple(Inclusions([index], size).proofs(self._nodes.__getitem__)[0]),
            )
            for index in indexes
        ]
        return Recorded(0, first, head, tuple(proofs))

    @property
    def events(self) -> list[Event]:
        return [event_of(signed_event(read_leaf(leaf))) for leaf in self.leaves]


async def opened(host: Host, credentials: Credentials = EDGE) -> Spool:
    return await Spool.open(
        host.world, Shelf(host.world, DIR), lambda: credentials, lambda: NOW + 5
    )


async def oldest(spool: Spool) -> Batch:
    batch = await spool.batch()
    assert batch is not None
    return batch


async def deliver(spool: Spool, log: Log) -> None:
    while (batch := await spool.batch()) is not None:
        await spool.acknowledge(batch, log.record(batch), PKI.signers(), NOW)


def note(spool: Spool, text: str, **more: str) -> int:
    return spool.append(EventName.CIRCUIT_CLOSE, Outcome.DONE, reason=text, **more)


def simulate(story, seed: int = 0):
    sim = Simulation(seed)
    return sim.run(story(sim))


def reasons(log: Log) -> list[str]:
    return [event.reason for event in log.events]


def test_events_are_numbered_signed_and_on_disk_before_they_leave():
    async def story(sim):
        spool = await opened(sim.host("edge"))
        assert [note(spool, "one"), note(spool, "two")] == [1, 2]
        assert await spool.batch() is None
        await spool.flush()
        assert spool.changed.is_set()
        batch = await oldest(spool)
        assert batch.first == 1
        assert batch.chain == EDGE.chain
        event, leaf = EventReader(PKI.signers(EDGE)).open(batch.events[1], NOW)
        assert (event.node, event.number, event.time, event.generation) == ("edge-a", 2, NOW + 5, 1)
        assert leaf == EDGE.leaf

    simulate(story)


def test_the_first_event_of_a_start_and_of_a_key_brings_the_chain():
    async def story(sim):
        host, keys = sim.host("edge"), [EDGE]

        async def start() -> Spool:
            return await Spool.open(
                host.world, Shelf(host.world, DIR), lambda: keys[-1], lambda: NOW
            )

        spool = await start()
        note(spool, "1 with")
        note(spool, "2")
        await spool.flush()
        spool = await start()
        note(spool, "3 with")
        keys.append(PKI.node(Role.EDGE, "edge-a", number=1))
        note(spool, "4 with")
        note(spool, "5")
        await spool.close()
        raw = host.world.disk.files[DIR / f"spool-{1:016d}"]
        for stored in spool_file.unpack(raw).events:
            chain = decode(Signed, stored.signed).chain
            assert bool(chain) is ("with" in event_of(stored.signed).reason)

    simulate(story)


def test_all_arrive_in_order_once_over_many_files(monkeypatch):
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 2000)

    async def story(sim):
        host, log = sim.host("edge"), Log()
        spool = await opened(host)
        for number in range(300):
            note(spool, f"e{number}")
            if number % 50 == 49:
                await spool.flush()
        await spool.flush()
        assert sum("spool-" in path.name for path in host.world.disk.files) > 20
        await deliver(spool, log)
        assert reasons(log) == [f"e{n}" for n in range(300)]
        assert sum("spool-" in path.name for path in host.world.disk.files) == 1
        await spool.close()
        again = await opened(host)
        assert await again.batch() is None
        assert note(again, "next") == 301

    simulate(story)


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_or_doubled_whoever_is_killed(seed, monkeypatch):
    """The node crashes at any moment, answers get lost: each event that was on disk is in the log exactly once."""
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 1500)

    async def story(sim):
        host, log = sim.host("edge"), Log()
        durable: list[str] = []

        async def node(life: int) -> None:
            spool = await opened(host)
            before = spool.durable
            names = {before + 1 + n: f"{life}.{n}" for n in range(40)}
            for name in names.values():
                note(spool, name)
                await asyncio.sleep(sim.rng.random() * 0.003)
                for number in range(before + 1, spool.durable + 1):
                    if number in names and names[number] not in durable:
                        durable.append(names[number])
                if sim.rng.random() < 0.3:
                    batch = await spool.batch()
                    if batch is not None:
                        answer = log.record(batch)
                        if sim.rng.random() < 0.5:  # else the answer never arrives
                            await spool.acknowledge(batch, answer, PKI.signers(), NOW)

        for life in range(6):
            host.start(node(life))
            await asyncio.sleep(0.02 + sim.rng.random() * 0.15)
            host.crash()
        last = host.task(opened(host))
        spool = await last
        await deliver(spool, log)
        found = reasons(log)
        assert len(found) == len(set(found)), "twice"
        assert [one for one in found if one in durable] == durable, "lost or out of order"
        assert [event.number for event in log.events] == list(range(1, len(found) + 1))

    simulate(story, seed)


def test_a_torn_tail_is_cut_and_its_number_used_again():
    async def story(sim):
        host = sim.host("edge")
        spool = await opened(host)
        note(spool, "one")
        note(spool, "two")
        await spool.flush()
        path = DIR / f"spool-{1:016d}"
        host.world.disk.files[path] = host.world.disk.files[path][:-3]
        again = await opened(host)
        assert again.last == 1
        assert note(again, "two again") == 2
        log = Log()
        await again.flush()
        await deliver(again, log)
        assert reasons(log) == ["one", "two again"]

    simulate(story)


def test_a_damaged_middle_is_reported_in_its_place_and_hides_nothing():
    async def story(sim):
        host = sim.host("edge")
        spool = await opened(host)
        for name in ("one", "two", "three", "four"):
            note(spool, name)
        await spool.flush()
        path = DIR / f"spool-{1:016d}"
        raw = bytearray(host.world.disk.files[path])
        raw[raw.index(b"two")] ^= 0xFF
        host.world.disk.files[path] = bytes(raw)
        await opened(host)
        again = await opened(host)  # the repair is on disk
        log = Log()
        await deliver(again, log)
        assert [event.number for event in log.events] == [1, 2, 3, 4]
        assert reasons(log)[0] == "one"
        assert reasons(log)[2:] == ["three", "four"]
        lost = log.events[1]
        assert (lost.event, lost.outcome) == (EventName.SPOOL_FULL, Outcome.FAILED)
        assert "damaged" in lost.reason

    simulate(story)


def test_a_file_that_is_lost_whole_is_replaced_by_one_of_its_size_with_its_certificates_once():
    async def story(sim):
        host, log = sim.host("edge"), Log()
        spool = await opened(host)
        while len(spool._segments) == 1:
            for _ in range(500):
                note(spool, "x" * 20)
            await spool.flush()
        first = spool._segments[0]
        await spool.close()
        await host.world.disk.replace(DIR / f"spool-{first.first:016d}", b"")
        again = await opened(host)
        assert again._segments[0].count == first.count
        assert again._segments[0].size < 2 * first.size
        batch = await oldest(again)
        assert [bool(decode(Signed, one).chain) for one in batch.events] == [True] + [False] * (
            len(batch.events) - 1
        )
        await deliver(again, log)
        assert len(log.events) == spool.last

    simulate(story)


def test_a_damaged_index_is_one_clear_sentence():
    async def story(sim):
        host = sim.host("edge")
        spool = await opened(host)
        note(spool, "one")
        await spool.close()
        host.world.disk.files[DIR / "spool"] = b"rubbish"
        with pytest.raises(DamagedError, match=r"/node/spool is damaged: .* move it away"):
            await opened(host)
        del host.world.disk.files[DIR / "spool"]
        assert (await opened(host)).last == 1, "the first file is found without the index"

    simulate(story)


def forged(log: Log, batch: Batch) -> dict[str, Recorded]:
    """Answers that prove nothing."""
    good = log.record(batch)
    index, leaf, proof = good.records[0]
    other = make_record(1, sign_body(
        Event("edge-b", 1, NOW, EventName.CIRCUIT_CLOSE, Outcome.DONE), PKI.edge("edge-b").key, PKI.anchor
    )).leaf()  # fmt: skip
    return {
        "another signer": log.answer(1, [0, 1], PKI.edge("edge-b")),
        "another root": log.answer(1, [0, 1], root=b"r" * 32),
        "another first": Recorded(0, 2, good.head, good.records),
        "another leaf": Recorded(0, 1, good.head, ((index, other, proof), *good.records[1:])),
        "a changed leaf": Recorded(0, 1, good.head, ((index, leaf + b" ", proof),)),
        "another place": Recorded(0, 1, good.head, ((1, leaf, proof),)),
        "swapped": Recorded(0, 1, good.head, tuple(reversed(good.records))),
        "no proof": Recorded(0, 1, good.head, ((index, leaf, ()),)),
        "too many": Recorded(0, 1, good.head, good.records * 2),
        "no head": Recorded(0, 1, b"", good.records),
    }


@pytest.mark.parametrize("name", [
    "another signer", "another root", "another first", "another leaf", "a changed leaf", "another place",
    "swapped", "no proof", "too many", "no head",
])  # fmt: skip
def test_an_event_leaves_only_against_a_proof(name):
    async def story(sim):
        spool, log = await opened(sim.host("edge")), Log()
        note(spool, "one")
        note(spool, "two")
        await spool.flush()
        batch = await oldest(spool)
        answer = forged(log, batch)[name]
        with pytest.raises((DecodeError, TrustError)):
            await spool.acknowledge(batch, answer, PKI.signers(), NOW)
        assert spool.acknowledged == 0
        assert await spool.batch() == batch

    simulate(story)


def test_a_shorter_answer_acknowledges_only_what_it_proves():
    async def story(sim):
        spool, log = await opened(sim.host("edge")), Log()
        for name in ("one", "two", "three"):
            note(spool, name)
        await spool.flush()
        batch = await oldest(spool)
        log.record(batch)
        await spool.acknowledge(batch, log.answer(1, [0, 1]), PKI.signers(), NOW)
        assert spool.acknowledged == 2
        assert (await oldest(spool)).first == 3

    simulate(story)


def test_a_folder_that_was_set_back_loses_no_event():
    """A backup was restored: numbers that the log knows with other events are signed anew under new numbers."""

    async def story(sim):
        host, log = sim.host("edge"), Log()
        spool = await opened(host)
        note(spool, "one")
        await spool.flush()
        backup = dict(host.world.disk.files)
        note(spool, "two")
        note(spool, "three")
        await spool.flush()
        await deliver(spool, log)
        host.world.disk.files = backup
        again = await opened(host)
        note(again, "after the backup")
        await again.flush()
        await deliver(again, log)
        assert reasons(log)[:3] == ["one", "two", "three"]
        assert reasons(log)[-1] == "after the backup"
        assert [event.number for event in log.events] == list(range(1, len(log.events) + 1))

    simulate(story)


def test_a_batch_holds_events_of_one_key_only():
    async def story(sim):
        host, log = sim.host("edge"), Log()
        keys = [EDGE]
        spool = await Spool.open(host.world, Shelf(host.world, DIR), lambda: keys[-1], lambda: NOW)
        note(spool, "old key")
        await spool.flush()
        keys.append(PKI.node(Role.EDGE, "edge-a", number=1))
        note(spool, "new key")
        await spool.flush()
        again = await opened(host, keys[-1])
        batch = await oldest(again)
        assert (len(batch.events), batch.chain) == (1, EDGE.chain)
        await deliver(again, log)
        assert reasons(log) == ["old key", "new key"]

    simulate(story)


def test_events_that_are_written_together_share_a_signature():
    async def story(sim):
        host, log = sim.host("edge"), Log()
        spool = await opened(host)
        for number in range(100):
            note(spool, str(number))
        await spool.flush()
        signed = [decode(Signed, one) for one in (await oldest(spool)).events]
        assert len({one.signature for one in signed}) == -(-100 // MAX_GROUP)
        assert [one.chain for one in signed] == [EDGE.chain] + [()] * 99
        await deliver(spool, log)
        assert reasons(log) == [str(number) for number in range(100)]

    simulate(story)


def test_certificates_come_with_the_first_event_also_when_it_could_not_be_written_at_once():
    async def story(sim):
        host = sim.host("edge")
        spool = await opened(host)
        host.world.disk.full = True
        note(spool, "one")
        note(spool, "two")
        await asyncio.sleep(0.5)
        assert spool.problem
        host.world.disk.full = False
        await asyncio.sleep(2)
        note(spool, "three")
        await spool.flush()
        signed = [decode(Signed, one) for one in (await oldest(spool)).events]
        assert [one.chain for one in signed] == [EDGE.chain, (), ()]

    simulate(story)


def test_what_was_said_with_the_old_key_is_signed_with_it_however_late_it_is_written():
    async def story(sim):
        host, log = sim.host("edge"), Log()
        keys = [EDGE]
        spool = await Spool.open(host.world, Shelf(host.world, DIR), lambda: keys[-1], lambda: NOW)
        note(spool, "old")
        note(spool, "old too")
        keys.append(PKI.node(Role.EDGE, "edge-a", number=1))
        note(spool, "new")
        await spool.flush()
        again = await opened(host, keys[-1])
        assert (await oldest(again)).chain == EDGE.chain
        assert len((await oldest(again)).events) == 2
        await deliver(again, log)
        assert reasons(log) == ["old", "old too", "new"]

    simulate(story)


def test_batches_are_bounded():
    async def story(sim):
        spool = await opened(sim.host("edge"))
        for _ in range(3 * limits.EVENTS_PER_BATCH):
            note(spool, "x")
        await spool.flush()
        assert len((await oldest(spool)).events) == limits.EVENTS_PER_BATCH

    simulate(story)


def test_a_batch_of_large_events_is_bounded_in_bytes_and_loses_none(monkeypatch):
    monkeypatch.setattr(spool_file, "EVENT_BATCH_BYTES", 4000)

    async def story(sim):
        spool, log = await opened(sim.host("edge")), Log()
        for number in range(100):
            note(spool, str(number))
        await spool.flush()
        sizes = [len(signed) for signed in (await oldest(spool)).events]
        assert 1 < len(sizes) < 100
        assert sum(sizes) <= 4000
        await deliver(spool, log)
        assert reasons(log) == [str(n) for n in range(100)]

    simulate(story)


def test_a_full_disk_refuses_new_circuits_and_loses_nothing():
    async def story(sim):
        host, log = sim.host("edge"), Log()
        spool = await opened(host)
        note(spool, "one")
        await spool.flush()
        host.world.disk.full = True
        note(spool, "while full")
        await asyncio.sleep(0.1)
        assert not spool.room()
        assert "No space left" in spool.problem
        note(spool, "a kill")
        await asyncio.sleep(5)
        host.world.disk.full = False
        await asyncio.sleep(2)
        assert spool.room()
        await deliver(spool, log)
        assert reasons(log) == ["one", "while full", "a kill"]
        assert (await opened(host)).last == 3

    simulate(story)


@pytest.mark.parametrize("full", [False, True])
def test_a_disk_that_was_full_is_tried_once_more_at_the_end(full: bool):
    async def story(sim):
        host = sim.host("edge")
        spool = await opened(host)
        host.world.disk.full = True
        note(spool, "while full")
        await asyncio.sleep(0.1)
        assert spool.problem
        host.world.disk.full = full
        end = sim.loop.now + 0.5
        await spool.close()
        assert sim.loop.now < end
        host.world.disk.full = False
        assert (await opened(host)).last == (0 if full else 1)

    simulate(story)


def test_memory_is_bounded_while_the_disk_is_full_and_what_is_not_kept_is_counted(monkeypatch):
    monkeypatch.setattr(spool_module, "UNWRITTEN_BYTES", 3000)

    async def story(sim):
        host, log = sim.host("edge"), Log()
        spool = await opened(host)
        host.world.disk.full = True
        numbers = [note(spool, "x") for _ in range(100)]
        kept = sum(number > 0 for number in numbers)
        assert 0 < kept < 20
        assert spool._pending_bytes < 3000 + 1000
        await asyncio.sleep(2)
        host.world.disk.full = False
        await asyncio.sleep(2)
        await spool.flush()
        await deliver(spool, log)
        assert reasons(log) == ["x"] * kept + [f"{100 - kept} events had no room"]

    simulate(story)


def test_a_full_spool_refuses_circuits_but_has_room_for_ends(monkeypatch):
    monkeypatch.setattr(limits, "SPOOL_BYTES", 8000)
    monkeypatch.setattr(spool_module, "RESERVE", 2000)

    async def story(sim):
        spool = await opened(sim.host("edge"))
        while spool.room():
            note(spool, "open")
        assert note(spool, "an end") > 0
        assert spool.size <= 8000
        for _ in range(50):
            note(spool, "more than ever")
        assert spool.size < 8000 + 1000

    simulate(story)


def test_long_texts_cost_no_event():
    async def story(sim):
        spool, log = await opened(sim.host("edge")), Log()
        note(spool, "r" * 5000, who="w" * 5000, detail='{"a":"' + "d" * 9000 + '"}')
        await spool.flush()
        await deliver(spool, log)
        (event,) = log.events
        assert (len(event.reason), len(event.who), event.detail) == (
            200,
            255,
            '{"omitted":"too long"}',
        )

    simulate(story)
