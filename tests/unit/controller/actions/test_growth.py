"""The controller proves that its log only grows, and cannot prove it where it does not (U-11, U-13)."""

import asyncio
import shutil

import pytest
from sqlalchemy import select, update

from controller.founding import reopen
from controller.store import log
from controller.store.tables import LogRow, RecordRow, TreeRow
from overlay.audit.event import EventName, Outcome
from overlay.audit.merkle import Frontier, leaf_hash
from overlay.audit.witness import Seen, Witness
from overlay.errors import TrustError
from overlay.identity.certificate import Role
from overlay.identity.trust import open_signed
from overlay.wire.bodies import TreeHead
from tests.support.controllers import Mill, Node


async def record(plant: Mill, node: Node, actions=None) -> Seen:
    """Has one event recorded; the head that comes back."""
    event = node.event(EventName.LINK_UP, Outcome.DONE)
    given = actions or plant.actions
    answer = await given.record_events(node.leaf, node.numbers, [event])
    head, _ = open_signed(TreeHead, answer.head, given.signers, given.now(), role=Role.CONTROLLER)
    return Seen(answer.head, head)


async def ask(witness: Witness, actions) -> object:
    question = witness.question()
    assert question is not None
    try:
        proofs = await actions.prove_growth(question.sizes, question.target.head.size)
    except TrustError as error:
        return witness.refused(question, str(error), 0)
    return witness.answered(question, proofs, 0)


async def test_every_head_of_an_honest_log_leads_to_every_later_one(plant: Mill):
    heads = [await record(plant, node) for _ in range(9) for node in (plant.edge_a, plant.edge_b)]
    assert [one.head.time for one in heads] == sorted(one.head.time for one in heads)
    for last in range(len(heads)):
        witness = Witness()
        for one in heads[: last + 1]:
            assert witness.offer(one, 0, relied=True) is None
        if last:
            assert await ask(witness, plant.actions) is None
        assert witness.base == heads[last]


async def test_honest_work_beside_the_questions_is_not_accused(plant: Mill):
    witness = Witness()

    async def work() -> None:
        for _ in range(10):
            assert witness.offer(await record(plant, plant.edge_a), 0) is None

    async def look() -> None:
        for _ in range(10):
            await asyncio.sleep(0.005)
            if witness.question() is not None:
                assert await ask(witness, plant.actions) is None

    await asyncio.gather(work(), look())
    assert witness.forks == []


async def test_a_restarted_controller_goes_on_with_its_log(plant: Mill):
    witness = Witness()
    witness.offer(await record(plant, plant.edge_a), 0)
    await plant.controller.store.close()
    again, store = await reopen(plant.controller.world, plant.controller.directory)
    assert witness.offer(await record(plant, plant.edge_a, again), 0) is None
    assert await ask(witness, again) is None
    assert witness.forks == []
    await store.close()


async def test_a_size_that_the_log_never_had_is_refused(plant: Mill):
    seen = await record(plant, plant.edge_a)
    with pytest.raises(TrustError, match=f"the log has {seen.head.size} records"):
        await plant.actions.prove_growth((1,), seen.head.size + 1)
    with pytest.raises(TrustError, match="cannot begin"):
        await plant.actions.prove_growth((5,), 4)


async def test_an_older_log_that_was_restored_is_found_by_whoever_remembers(plant: Mill):
    """A backup, put back after more was recorded: at once while it is shorter, by the proof once it has grown."""
    await record(plant, plant.edge_a)
    files = plant.controller.directory
    await plant.controller.store.close()
    backup = files.with_name("backup")
    shutil.copytree(files, backup)
    actions, store = await reopen(plant.controller.world, files)
    remembered = [await record(plant, plant.edge_a, actions) for _ in range(4)][-1]
    await store.close()
    old, store = await reopen(plant.controller.world, backup)
    plant.controller.pass_(1)
    other = plant.edge_b
    short = await record(plant, other, old)
    witness = Witness()
    witness.offer(remembered, 0)
    found = witness.offer(short, 0)
    assert found is not None
    assert "and later it had" in found.reason
    witness = Witness()
    witness.offer(remembered, 0)
    long = [await record(plant, other, old) for _ in range(8)][-1]
    assert witness.offer(long, 0) is None
    assert await ask(witness, old) is not None
    await store.close()


async def test_a_rewritten_record_is_found_although_the_controller_signs_all_anew(plant: Mill):
    """Whoever has the store and the key changes a record and makes everything fit."""
    witness = Witness()
    witness.offer([await record(plant, plant.edge_a) for _ in range(6)][-1], 0)
    async with plant.controller.store.write() as session:
        rows = list((await session.execute(select(RecordRow).order_by(RecordRow.seq))).scalars())
        tree, nodes = Frontier(), []
        for at, row in enumerate(rows):
            leaf = (
                row.leaf.replace(b'"outcome":"done"', b'"outcome":"failed"')
                if at == 2
                else row.leaf
            )
            digest = leaf_hash(leaf)
            await session.execute(
                update(RecordRow).where(RecordRow.seq == row.seq).values(leaf=leaf, hash=digest)
            )
            nodes += tree.append(digest)
        for (level, position), value in nodes:
            place = (TreeRow.level == level, TreeRow.position == position)
            await session.execute(update(TreeRow).where(*place).values(hash=value))
        kept = (await session.execute(select(LogRow))).scalar_one()
        kept.frontier = b"".join(tree.peaks)
        kept.head = plant.actions.sign_head(TreeHead(tree.size, tree.root(), plant.actions.now()))
    witness.offer(await record(plant, plant.edge_a), 0)
    fork = await ask(witness, plant.actions)
    assert fork is not None


async def test_the_time_of_a_head_never_falls(plant: Mill):
    """Controllers of one store have clocks of their own."""
    later = plant.actions.now() + 10**9
    for now in (later, later - 10**8):
        async with plant.controller.store.write() as session:
            row = await log.begin(session)
            await log.append(session, row, [], now, plant.actions.sign_head)
    async with plant.controller.store.read() as session:
        row = (await session.execute(select(LogRow))).scalar_one()
    assert log.head_of(row).time == later
