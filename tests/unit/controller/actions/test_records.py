"""Reading the log: tail, search, prove, export; and `verify`, which finds whatever was changed behind its back."""

import msgspec
import pytest
from sqlalchemy import delete, select, text

from controller.actions import records
from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.errors import Invalid, NotFound
from controller.store.log import columns_of
from controller.store.tables import LogRow, RecordRow, TreeRow
from overlay.audit.export import Verifier
from overlay.audit.merkle import Frontier, leaf_hash
from overlay.audit.proofs import Proven
from overlay.audit.record import check_event, read_leaf
from overlay.errors import InputError
from tests.support.controllers import ADMIN, Mill
from tests.unit.controller.actions.test_recording import closes, opens, up


async def test_tail_gives_the_newest_and_follows(plant: Mill):
    actions = plant.actions
    everything = await actions.audit_tail(ADMIN, limit=1000)
    assert [one.seq for one in everything] == list(range(1, len(everything) + 1))
    assert await actions.audit_tail(ADMIN, limit=3) == everything[-3:]
    assert await actions.audit_tail(ADMIN, after=2, limit=2) == everything[2:4]
    assert await actions.audit_tail(ADMIN, after=len(everything)) == []
    for limit in (0, 1001):
        with pytest.raises(Invalid):
            await actions.audit_tail(ADMIN, limit=limit)


async def test_search_filters_and_keeps_order(plant: Mill):
    actions = plant.actions
    plant.controller.pass_(3600)
    await actions.record_events(plant.edge_b.leaf, 1, [opens(plant.edge_b)])
    await actions.add_zone(ADMIN, r.NewZone(name="late"))

    async def found(**filters) -> list[str]:
        return [one.event for one in await actions.audit_search(ADMIN, r.Search(**filters))]

    assert await found(who="HMI-A") == ["circuit.open"]
    assert await found(service="plc-b.Modbus", outcome="allowed") == ["circuit.open"]
    assert await found(since="10m") == ["circuit.open", "object.add"]
    assert await found(since="2027-01-15T09:00:00Z") == ["circuit.open", "object.add"]
    assert await found(since="2h", limit=1) == ["object.add"]
    assert "circuit.open" not in await found(until="30m")
    assert await found(who="ada", since="10m") == ["object.add"]
    assert await found(who="nobody") == []
    with pytest.raises(Invalid, match="did you mean allowed"):
        await found(outcome="alowed")
    for bad in ({"since": "soon"}, {"until": "soon"}, {"who": "a_b"}):
        with pytest.raises(InputError):
            await found(**bad)


async def test_a_proof_holds_by_itself(plant: Mill):
    await plant.actions.record_events(plant.edge_b.leaf, 1, [up(plant.edge_b) for _ in range(20)])
    (last,) = await plant.actions.audit_tail(ADMIN, limit=1)
    for seq in (1, 2, 7, last.seq):
        proof = await plant.actions.audit_prove(ADMIN, seq)
        path = [bytes.fromhex(step) for step in proof.path]
        leaf, root = bytes.fromhex(proof.hash), bytes.fromhex(proof.root)
        Proven(proof.size, root).check(leaf, seq - 1, path)
        assert (proof.size, proof.signed_by) == (last.seq, "controller")
    for seq in (0, -1, last.seq + 1):
        with pytest.raises(NotFound, match=f"no record {seq}"):
            await plant.actions.audit_prove(ADMIN, seq)


async def exported(plant: Mill) -> bytes:
    return b"".join([piece async for piece in plant.actions.audit_export(ADMIN)])


async def test_an_export_verifies_offline_and_holds_everything(plant: Mill):
    await plant.actions.record_events(plant.edge_b.leaf, 1, [up(plant.edge_b)])
    lines = (await exported(plant)).splitlines()
    verifier = Verifier(plant.actions.anchor)
    for line in lines:
        verifier.line(line)
    verdict = verifier.verdict()
    assert verdict.ok, verdict.problems
    (last,) = await plant.actions.audit_tail(ADMIN, limit=1)
    assert (verdict.records, verdict.last, verdict.signed_by) == (last.seq, last.seq, "controller")
    assert last.event == "audit.export"
    for cut in (lines[:5] + lines[6:], lines[:-1], [*lines[:5], lines[6], lines[5], *lines[7:]]):
        verifier = Verifier(plant.actions.anchor)
        for line in cut:
            verifier.line(line)
        assert not verifier.verdict().ok


async def verify(plant: Mill) -> t.Verified:
    return await plant.actions.audit_verify(ADMIN)


async def test_a_whole_log_verifies(plant: Mill):
    await plant.actions.record_events(plant.edge_b.leaf, 1, [up(plant.edge_b) for _ in range(9)])
    found = await verify(plant)
    assert found.ok, found.problems
    assert (found.first, found.last, found.signed_by) == (1, found.records, "controller")


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE records SET leaf = replace(leaf, 'hmi-a', 'hmi-b') WHERE seq = 12",
        "UPDATE records SET leaf = CAST(replace(leaf, 'done', 'none') AS BLOB) WHERE seq = 5",
        "UPDATE records SET hash = zeroblob(32) WHERE seq = 5",
        "UPDATE records SET who = 'eve' WHERE seq = 5",
        "UPDATE records SET outcome = 'denied' WHERE seq = 5",
        "UPDATE records SET event = 'zone.add' WHERE seq = 5",
        "UPDATE records SET service = 'x' WHERE seq = 5",
        "UPDATE records SET time = time + 1 WHERE seq = 5",
        "UPDATE records SET node = 'edge-a' WHERE seq = 5",
        "UPDATE records SET number = number + 1000 WHERE seq = 5",
        "UPDATE records SET generation = 9 WHERE seq = 5",
        "DELETE FROM records WHERE seq = 5",
        "DELETE FROM records WHERE seq = 1",
        "DELETE FROM records WHERE seq = (SELECT max(seq) FROM records)",
        "DELETE FROM records",
        "UPDATE records SET seq = 100000 WHERE seq = 5",
        "INSERT INTO records SELECT 100000, leaf, hash, 'x', generation, number, time, event, outcome, who, service FROM records WHERE seq = 5",
        "DELETE FROM tree WHERE level = 1 AND position = 2",
        "UPDATE tree SET hash = zeroblob(32) WHERE level = 2 AND position = 0",
        "UPDATE log SET size = size - 1",
        "UPDATE log SET size = size + 1",
        "UPDATE log SET size = 0",
        "UPDATE log SET frontier = zeroblob(length(frontier))",
        "UPDATE log SET head = zeroblob(100)",
        "UPDATE log SET head = x''",
        "DELETE FROM certificates WHERE name = 'edge-b'",
    ],
)
async def test_verify_finds_what_was_changed_in_the_database(plant: Mill, tampering: str):
    await plant.actions.record_events(plant.edge_b.leaf, 1, [up(plant.edge_b)])
    assert (await verify(plant)).ok
    async with plant.controller.store.write() as session:
        await session.execute(text("PRAGMA defer_foreign_keys = ON"))
        await session.execute(text(tampering))
    found = await verify(plant)
    assert not found.ok
    assert found.problems
    assert all(len(problem) < 500 for problem in found.problems)


async def test_verify_finds_two_records_that_changed_places(plant: Mill):
    async with plant.controller.store.write() as session:
        for move in ("5 TO 900000", "6 TO 5", "900000 TO 6"):
            old, new = move.split(" TO ")
            await session.execute(text(f"UPDATE records SET seq = {new} WHERE seq = {old}"))
    found = await verify(plant)
    assert not found.ok


async def test_verify_finds_a_rewritten_history_that_fits_together(plant: Mill):
    """An attacker with the database, but without the controller's key, takes out a record and hashes all again."""
    async with plant.controller.store.write() as session:
        rows = list((await session.execute(select(RecordRow).order_by(RecordRow.seq))).scalars())
        kept = [row.leaf for row in rows if row.seq != 5]
        generations = [row.generation for row in rows if row.seq != 5]
        await session.execute(delete(RecordRow))
        await session.execute(delete(TreeRow))
        session.expunge_all()
        tree = Frontier()
        for at, (leaf, generation) in enumerate(zip(kept, generations, strict=True), 1):
            record = msgspec.structs.replace(read_leaf(leaf), seq=at)
            event = check_event(record)
            for (level, position), digest in tree.append(record.hash()):
                if level:
                    session.add(TreeRow(level=level, position=position, hash=digest))
            session.add(
                RecordRow(
                    seq=at,
                    leaf=record.leaf(),
                    hash=leaf_hash(record.leaf()),
                    generation=generation,
                    number=record.number,
                    **columns_of(record, event.time),
                )
            )
        row = (await session.execute(select(LogRow))).scalar_one()
        row.size, row.frontier = tree.size, b"".join(tree.peaks)
    found = await verify(plant)
    assert not found.ok
    assert any("tree head" in problem for problem in found.problems)


async def test_problems_are_bounded(plant: Mill):
    await plant.actions.record_events(plant.edge_b.leaf, 1, [up(plant.edge_b) for _ in range(60)])
    async with plant.controller.store.write() as session:
        await session.execute(text("UPDATE records SET who = 'eve'"))
    found = await verify(plant)
    assert len(found.problems) == 21
    assert found.problems[-1] == "and more"


async def test_of_sessions_that_ended_the_last_are_shown(
    plant: Mill, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "HISTORY", 2)
    names = [f"{number:032x}" for number in range(5)]
    for name in names:
        plant.controller.pass_(1)
        node, first = plant.edge_b, plant.edge_b.numbers + 1
        events = (
            [opens(node, name)] if name == names[-1] else [opens(node, name), closes(node, name)]
        )
        await plant.actions.record_events(node.leaf, first, events)
    assert [one.id for one in await plant.actions.sessions(ADMIN, history=True)] == names[2:]
    assert [one.id for one in await plant.actions.sessions(ADMIN)] == names[-1:]
