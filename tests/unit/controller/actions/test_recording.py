"""Events of nodes: proofs, repeats, gaps, forks, and the sessions that follow."""

import asyncio
import json
import struct

import msgspec
import pytest
from msgspec import Raw
from sqlalchemy.event import listen

from controller.actions import nodes, recording
from controller.actions import requests as r
from controller.actions.errors import Unavailable
from controller.store.store import StoreError
from overlay import limits
from overlay.audit.event import MAX_DETAIL, MAX_TEXT, Event, EventName, Outcome
from overlay.audit.merkle import leaf_hash
from overlay.audit.proofs import Proven
from overlay.audit.receipt import make_receipt
from overlay.audit.record import FORM, check_event, make_record, read_leaf
from overlay.control.messages import Events, Recorded
from overlay.crypto.checkpoint import CALLER, HOST, Checkpoint
from overlay.errors import DecodeError, TrustError
from overlay.fabric.authority import Authority
from overlay.identity.certificate import Role
from overlay.identity.trust import open_signed
from overlay.wire.bodies import TreeHead
from overlay.wire.codec import Signed, decode, encode, signing_input
from tests.support.controllers import ADMIN, Mill, Node

CIRCUIT = "ab" * 16


def up(node: Node, **fields) -> bytes:
    return node.event(EventName.LINK_UP, Outcome.DONE, **fields)


def opens(node: Node, circuit: str = CIRCUIT, **fields) -> bytes:
    detail = {
        "path": ["edge-a", "router-1", "edge-b"],
        "key_exchange": "X25519MLKEM768",
        "integrity": "strict",
    }
    return node.event(
        EventName.CIRCUIT_OPEN, Outcome.ALLOWED, who="hmi-a", via="edge-a", asset="plc-b",
        service="plc-b.modbus", address="192.168.1.20:502", conduit="c1", circuit=circuit,
        detail=json.dumps(detail), **fields,
    )  # fmt: skip


def closes(node: Node, circuit: str = CIRCUIT, **fields) -> bytes:
    side = {"frames": 1, "hash": "", "signature": ""}
    receipt = {"caller": side | {"bytes": 12}, "host": side | {"bytes": 34}}
    return node.event(
        EventName.CIRCUIT_CLOSE, Outcome.DONE, circuit=circuit, reason="end of stream",
        detail=json.dumps(receipt), **fields,
    )  # fmt: skip


def check_proofs(plant: Mill, answer: Recorded, sent: list[bytes]) -> None:
    """What a node does before its spool drops anything (U-05)."""
    head = head_of(plant, answer)
    assert len(answer.records) == len(sent)
    proven = Proven(head.size, head.root)
    for (index, said, proof), signed in zip(answer.records, sent, strict=True):
        leaf = said or make_record(index + 1, signed).leaf()
        proven.check(leaf_hash(leaf), index, proof)
        record = read_leaf(leaf)
        check_event(record, signed)
        assert record.index == index


async def test_each_event_comes_back_with_a_proof(plant: Mill):
    sent = [up(plant.edge_b) for _ in range(limits.EVENTS_PER_BATCH)]
    answer = await plant.actions.record_events(plant.edge_b.leaf, 1, sent)
    check_proofs(plant, answer, sent)
    assert answer.first == 1


@pytest.mark.parametrize("makes", [0, FORM, FORM + 1])
async def test_only_who_can_make_records_itself_is_not_sent_them(plant: Mill, makes: int):
    sent = [up(plant.edge_b) for _ in range(20)]
    for _ in range(2):  # and the same when it asks again
        answer = await plant.actions.record_events(plant.edge_b.leaf, 1, sent, makes=makes)
        check_proofs(plant, answer, sent)
        leaves, proofs = [one[1] for one in answer.records], [one[2] for one in answer.records]
        if makes == FORM:
            assert set(leaves) == {b""}
            assert sum(map(len, proofs)) < 20 + len(proofs[0]) + 10
        else:
            assert [read_leaf(leaf).number for leaf in leaves] == list(range(1, 21))
            head = head_of(plant, answer)
            for index, leaf, proof in answer.records:
                Proven(head.size, head.root).check(leaf_hash(leaf), index, proof)


def head_of(plant: Mill, answer: Recorded) -> TreeHead:
    return open_signed(
        TreeHead, answer.head, plant.actions.signers, plant.actions.now(), role=Role.CONTROLLER
    )[0]


async def test_what_is_sent_again_gets_its_answer_and_is_recorded_once(plant: Mill):
    sent = [up(plant.edge_b) for _ in range(5)]
    first = await plant.actions.record_events(plant.edge_b.leaf, 1, sent[:3])
    await plant.actions.record_events(plant.edge_a.leaf, 1, [up(plant.edge_a)])
    again = await plant.actions.record_events(plant.edge_b.leaf, 1, sent)
    check_proofs(plant, again, sent)
    assert [one[:2] for one in again.records[:3]] == [one[:2] for one in first.records]
    only = await plant.actions.record_events(plant.edge_b.leaf, 2, sent[1:3])
    check_proofs(plant, only, sent[1:3])
    records = await plant.actions.audit_search(ADMIN, r.Search())
    assert sum(one.event == "link.up" for one in records) == 6
    assert (await plant.actions.audit_verify(ADMIN)).ok


async def test_many_nodes_at_once_share_transactions_and_none_is_lost(plant: Mill):
    async def report(node: Node) -> None:
        for _ in range(5):
            number = node.numbers + 1
            sent = [up(node), up(node)]
            answer = await plant.actions.record_events(node.leaf, number, sent)
            check_proofs(plant, answer, sent)

    await asyncio.gather(report(plant.edge_a), report(plant.edge_b), report(plant.router))
    records = await plant.actions.audit_search(ADMIN, r.Search())
    assert sum(one.event == "link.up" for one in records) == 30
    assert (await plant.actions.audit_verify(ADMIN)).ok


async def test_a_repeat_while_the_first_is_being_written_is_recorded_once(plant: Mill):
    sent = [up(plant.edge_b)]
    both = await asyncio.gather(
        *(plant.actions.record_events(plant.edge_b.leaf, 1, sent) for _ in range(3))
    )
    assert {one.records[0][:2] for one in both} == {both[0].records[0][:2]}


async def test_a_known_number_with_other_content_is_not_recorded_and_said_once(plant: Mill):
    sent = [up(plant.edge_b)]
    first = await plant.actions.record_events(plant.edge_b.leaf, 1, sent)
    for _ in range(2):
        other = up(plant.edge_b, number=1, reason="another")
        answer = await plant.actions.record_events(plant.edge_b.leaf, 1, [other])
        check_proofs(
            plant, answer, sent
        )  # what is recorded, so that the node can number its event anew
        assert answer.records[0][0] == first.records[0][0]
        assert read_leaf(answer.records[0][1]).number == 1
    assert "another" not in [
        one.reason for one in await plant.actions.audit_search(ADMIN, r.Search())
    ]
    records = await plant.actions.audit_tail(ADMIN, limit=3)
    assert [one.event for one in records].count("security.fork") == 1
    assert records[-1].via == "edge-b"


async def test_a_fork_of_one_node_does_not_hold_up_another(plant: Mill):
    sent = [up(plant.edge_b)]
    await plant.actions.record_events(plant.edge_b.leaf, 1, sent)
    forged = up(plant.edge_b, number=1, reason="another")
    good = [up(plant.edge_a)]
    results = await asyncio.gather(
        plant.actions.record_events(plant.edge_b.leaf, 1, [forged]),
        plant.actions.record_events(plant.edge_a.leaf, 1, good),
    )
    check_proofs(plant, results[0], sent)
    check_proofs(plant, results[1], good)


async def test_a_batch_of_two_generations_is_refused_and_does_not_hold_up_another(plant: Mill):
    old = plant.edge_b
    await plant.actions.record_events(old.leaf, 1, [up(old), up(old)])
    token = await plant.actions.make_token(ADMIN, "edge", "edge-b")
    new = await plant.controller.enrol(token.token, b"n" * 32)
    mixed = [up(new), up(old, number=2, reason="recorded already, in the generation before")]
    good = [up(plant.edge_a)]
    refused, taken = await asyncio.gather(
        plant.actions.record_events(new.leaf, 1, mixed),
        plant.actions.record_events(plant.edge_a.leaf, 1, good),
        return_exceptions=True,
    )
    assert isinstance(refused, TrustError)
    assert isinstance(taken, Recorded)
    check_proofs(plant, taken, good)


@pytest.mark.parametrize("together", [False, True])
async def test_two_nodes_that_both_host_one_circuit_are_a_security_event(
    plant: Mill, together: bool
):
    """U-07: a caller knows the name of its circuit first: it could claim the session, and end it in the eyes of people."""
    claims = [
        plant.actions.record_events(node.leaf, 1, [opens(node)])
        for node in (plant.edge_a, plant.edge_b)
    ]
    if together:
        await asyncio.gather(*claims)
    else:
        for claim in claims:
            await claim
    await plant.actions.record_events(plant.edge_b.leaf, 2, [opens(plant.edge_b, "cd" * 16)])
    records = await plant.actions.audit_search(ADMIN, r.Search())
    (said,) = [one for one in records if one.event == "security.fork"]
    later = said.via if together else "edge-b"  # which of two at once is first is nobody's choice
    (first,) = {"edge-a", "edge-b"} - {later}
    assert (said.via, said.circuit) == (later, CIRCUIT)
    assert said.reason == f"{first} and {later} both say that they host this circuit"
    assert (await plant.actions.audit_verify(ADMIN)).ok


async def killed(plant: Mill) -> list[str]:
    """Names in the kills of the authority that goes out."""
    signed = decode(Signed, await plant.actions.authority())
    return [one.name for one in decode(Authority, signed.body).kills]


@pytest.mark.parametrize("together", [False, True])
async def test_who_claims_the_circuit_of_another_first_takes_nothing_from_it(
    plant: Mill, together: bool
):
    """Neither its session, nor its end, nor the kill of it, which only the edge before the asset can have done (U-07)."""
    claim = plant.edge_a.event(
        EventName.CIRCUIT_OPEN, Outcome.ALLOWED, circuit=CIRCUIT, service="lathe.web", who="nobody"
    )
    reports = [
        plant.actions.record_events(plant.edge_a.leaf, 1, [claim]),
        plant.actions.record_events(plant.edge_b.leaf, 1, [opens(plant.edge_b)]),
    ]
    if together:
        await asyncio.gather(*reports)
    else:
        for report in reports:
            await report
    live = await plant.actions.sessions(ADMIN)
    assert {(one.id, one.who) for one in live} == {(CIRCUIT, "nobody"), (CIRCUIT, "hmi-a")}
    await plant.actions.kill_session(ADMIN, r.KillSession(id=CIRCUIT[:8]))
    await plant.actions.record_events(plant.edge_a.leaf, 2, [closes(plant.edge_a)])
    assert [one.who for one in await plant.actions.sessions(ADMIN)] == ["hmi-a"]
    assert (await plant.actions.show_session(ADMIN, CIRCUIT)).who == "hmi-a"
    assert await killed(plant) == [CIRCUIT]
    await plant.actions.record_events(plant.edge_b.leaf, 2, [closes(plant.edge_b)])
    assert await plant.actions.sessions(ADMIN) == []
    assert await killed(plant) == []
    ended = {one.who: one.bytes_in for one in await plant.actions.sessions(ADMIN, history=True)}
    assert ended["hmi-a"] == 12


@pytest.mark.parametrize(
    "claim",
    [
        {"service": "plc-b.modbus", "asset": "plc-b"},
        {"service": "plc-b.modbus", "asset": "hmi-a"},  # which it does stand before
        {"service": "_echo", "asset": "plc-b"},
        {"service": "_echo", "asset": "hmi-a"},  # which nobody calls
        {"service": "hmi-a.modbus", "asset": "hmi-a"},  # which there is not
        {"service": "plc-x.modbus", "asset": "plc-b"},
    ],
)
async def test_who_does_not_host_the_service_of_a_session_never_lifts_the_kill_of_it(
    plant: Mill, claim: dict[str, str]
):
    """A-05: while the host is away the caller, which knows the circuit's name, says that it is the host, and ends it."""
    made = plant.edge_a.event(
        EventName.CIRCUIT_OPEN, Outcome.ALLOWED, circuit=CIRCUIT, who="hmi-a", **claim
    )
    await plant.actions.record_events(plant.edge_a.leaf, 1, [made])
    await plant.actions.kill_session(ADMIN, r.KillSession(id=CIRCUIT))
    await plant.actions.record_events(plant.edge_a.leaf, 2, [closes(plant.edge_a)])
    assert await plant.actions.sessions(ADMIN) == []
    assert await killed(plant) == [CIRCUIT]
    await plant.actions.record_events(plant.edge_b.leaf, 1, [opens(plant.edge_b)])
    assert await killed(plant) == [CIRCUIT]
    await plant.actions.record_events(plant.edge_b.leaf, 2, [closes(plant.edge_b)])
    assert await killed(plant) == []


async def test_an_edge_that_stands_before_the_asset_no_more_lifts_no_kill(plant: Mill):
    """Nobody can know then that it was the host: the kill ends by its time."""
    await plant.actions.record_events(plant.edge_b.leaf, 1, [opens(plant.edge_b)])
    await plant.actions.kill_session(ADMIN, r.KillSession(id=CIRCUIT))
    await plant.actions.set_object(ADMIN, "asset", "plc-b", r.Changes(changes={"edge": "edge-a"}))
    await plant.actions.record_events(plant.edge_b.leaf, 2, [closes(plant.edge_b)])
    assert await killed(plant) == [CIRCUIT]
    plant.controller.pass_(limits.REFRESH_BY + limits.DEFAULT_HOLD + 1)
    await plant.actions.tick()
    assert await killed(plant) == []


async def test_a_claim_that_vanishes_does_not_end_the_circuit_of_another(plant: Mill):
    """K-06: who lacks a circuit in its live report ends its own session only."""
    await plant.actions.record_events(plant.edge_b.leaf, 1, [opens(plant.edge_b)])
    await plant.actions.record_events(plant.edge_a.leaf, 1, [opens(plant.edge_a)])
    for _ in range(3):
        await plant.actions.node_live(plant.edge_a.leaf, ())
        await plant.actions.node_live(plant.edge_b.leaf, ((bytes.fromhex(CIRCUIT), 1, 2),))
    (session,) = await plant.actions.sessions(ADMIN)
    assert (session.bytes_in, session.bytes_out) == (1, 2)


async def test_a_node_that_never_says_what_lives_cannot_make_the_sessions_grow(
    plant: Mill, monkeypatch: pytest.MonkeyPatch
):
    """What it opens is in the log; the table of sessions is no longer than what can live."""
    monkeypatch.setattr(recording, "LIVE_CIRCUITS", 3)
    names = [bytes((number,)) * 16 for number in range(6)]
    for number, name in enumerate(names[:5]):
        event = opens(plant.edge_b, name.hex())
        await plant.actions.record_events(plant.edge_b.leaf, 1 + number, [event])
    assert [one.id for one in await plant.actions.sessions(ADMIN)] == [n.hex() for n in names[:3]]
    found = await plant.actions.audit_search(ADMIN, r.Search())
    assert sum(one.event == "circuit.open" for one in found) == 5
    await plant.actions.node_live(plant.edge_b.leaf, [(names[0], 0, 0)])
    await plant.actions.record_events(plant.edge_b.leaf, 6, [opens(plant.edge_b, names[5].hex())])
    assert names[5].hex() in {one.id for one in await plant.actions.sessions(ADMIN)}


async def test_no_statement_ends_more_sessions_than_it_takes_values(
    plant: Mill, monkeypatch: pytest.MonkeyPatch
):
    """PostgreSQL takes 32,767, and an edge that has restarted may have had 65,536."""
    monkeypatch.setattr(nodes, "IDS_PER_QUERY", 2)
    edge, told = plant.edge_b, []

    def execute(_conn, _cursor, statement: str, values: list[object], *_) -> None:
        if statement.startswith("UPDATE circuits"):
            told.append(sum(len(str(one)) == 32 for one in values))

    for number in range(5):
        event = opens(edge, f"{number:032x}")
        await plant.actions.record_events(edge.leaf, 1 + number, [event])
    listen(plant.controller.store._writer.sync_engine, "before_cursor_execute", execute)
    for _ in range(2):
        await plant.actions.node_live(edge.leaf, ())
    assert await plant.actions.sessions(ADMIN) == []
    assert told == [2, 2, 1]


@pytest.mark.parametrize("letter", ["\0", "\U0001f527"])
async def test_the_largest_event_that_a_node_can_send_makes_a_record_that_can_be_read(
    plant: Mill, letter: str
):
    """Filled up with a field of a later version (P-10): no node may make the log unreadable for everybody."""
    node = plant.edge_b
    texts = ("who", "via", "asset", "service", "address", "conduit", "circuit")
    full = Event(
        node="edge-b", number=1, generation=node.leaf.generation, time=plant.actions.now(),
        event=EventName.LINK_UP, outcome=Outcome.DONE, detail=letter * MAX_DETAIL,
        reason=letter * limits.MAX_REASON,
        **dict.fromkeys(texts, letter * MAX_TEXT),  # type: ignore[arg-type]
    )  # fmt: skip

    def signed(padding: int) -> bytes:
        body = encode([*decode(list[Raw], encode(full)), bytes(padding)])
        key, plant_root = node.credentials.key, node.credentials.anchor.digest
        signature = key.sign(signing_input(Event.TYPE, plant_root, body))
        return encode(Signed(Event.TYPE, body, key.key_id, signature, node.credentials.chain))

    spare = limits.MAX_EVENT - len(signed(0)) - 4
    largest = signed(spare)
    assert limits.MAX_EVENT - 8 < len(largest) <= limits.MAX_EVENT
    sent = decode(Events, encode(Events(1, 1, (largest,)))).events
    check_proofs(plant, await plant.actions.record_events(node.leaf, 1, sent), list(sent))
    assert (await plant.actions.audit_tail(ADMIN, limit=1))[0].event == "link.up"
    assert (await plant.actions.audit_verify(ADMIN)).ok
    with pytest.raises(DecodeError):
        decode(Events, encode(Events(1, 1, (signed(spare + 8),))))


async def test_a_gap_is_recorded_as_one_and_later_events_count(plant: Mill):
    plant.edge_b.numbers = 4
    await plant.actions.record_events(plant.edge_b.leaf, 5, [up(plant.edge_b)])
    records = await plant.actions.audit_tail(ADMIN, limit=2)
    assert {one.event for one in records} == {"link.up", "audit.spool"}
    said = next(one for one in records if one.event == "audit.spool")
    assert (said.outcome, said.reason) == ("failed", "events 1 to 4 of edge-b never arrived")
    await plant.actions.record_events(plant.edge_b.leaf, 6, [up(plant.edge_b)])
    assert (await plant.actions.audit_tail(ADMIN, limit=1))[0].event == "link.up"


async def test_a_replaced_machine_counts_from_one_again(plant: Mill):
    await plant.actions.record_events(plant.edge_b.leaf, 1, [up(plant.edge_b)])
    token = await plant.actions.make_token(ADMIN, "edge", "edge-b")
    again = await plant.controller.enrol(token.token, b"n" * 32)
    sent = [up(again)]
    check_proofs(plant, await plant.actions.record_events(again.leaf, 1, sent), sent)


async def test_only_the_nodes_own_events_are_taken(plant: Mill):
    edge_a, edge_b = plant.edge_a, plant.edge_b
    foreign = up(edge_a)
    for leaf, first, sent in (
        (edge_b.leaf, 1, [foreign]),
        (edge_b.leaf, 2, [up(edge_b)]),
        (plant.router.leaf, 1, [foreign]),
    ):
        with pytest.raises(TrustError):
            await plant.actions.record_events(leaf, first, sent)
    wrong = edge_b.event(EventName.LINK_UP, Outcome.DONE, number=1)
    with pytest.raises((TrustError, DecodeError)):
        await plant.actions.record_events(edge_b.leaf, 1, [wrong[:-1] + bytes([wrong[-1] ^ 1])])
    for junk in ([], [b""], [b"junk"], [wrong] * (limits.EVENTS_PER_BATCH + 1)):
        with pytest.raises((DecodeError, TrustError)):
            await plant.actions.record_events(edge_b.leaf, 1, junk)
    records = await plant.actions.audit_search(ADMIN, r.Search())
    assert all(one.event != "link.up" for one in records)


async def test_a_failing_store_records_nothing_and_says_so(
    plant: Mill, monkeypatch: pytest.MonkeyPatch
):
    sent = [up(plant.edge_b)]

    def broken():
        raise StoreError("The disk that holds the store is full")

    with monkeypatch.context() as patch:
        patch.setattr(plant.controller.store, "write", broken)
        with pytest.raises(Unavailable, match="full"):
            await plant.actions.record_events(plant.edge_b.leaf, 1, sent)
        with pytest.raises(Unavailable):
            await plant.actions.authority_version()  # then there is no answer (K-03)
    assert await plant.actions.authority_version() >= 1
    answer = await plant.actions.record_events(plant.edge_b.leaf, 1, sent)
    check_proofs(plant, answer, sent)


async def test_an_open_circuit_is_a_session(plant: Mill):
    news = plant.actions.subscribe()
    await plant.actions.record_events(plant.edge_b.leaf, 1, [opens(plant.edge_b)])
    assert {"sessions", "audit"} <= await news.wait()
    news.close()
    (session,) = await plant.actions.sessions(ADMIN)
    assert (session.id, session.who, session.via, session.asset) == (
        CIRCUIT, "hmi-a", "edge-a", "plc-b",
    )  # fmt: skip
    assert session.path == ("edge-a", "router-1", "edge-b")
    assert (session.key_exchange, session.integrity) == ("X25519MLKEM768", "strict")
    assert (session.ended, session.bytes_in) == (None, 0)


async def test_a_closed_circuit_is_history_with_the_bytes_of_its_receipt(plant: Mill):
    await plant.actions.record_events(plant.edge_b.leaf, 1, [opens(plant.edge_b)])
    plant.controller.pass_(5)
    await plant.actions.record_events(plant.edge_b.leaf, 2, [closes(plant.edge_b)])
    assert await plant.actions.sessions(ADMIN) == []
    (session,) = await plant.actions.sessions(ADMIN, history=True)
    assert session.ended == "2027-01-15T08:00:05.000000Z"
    assert session.end_reason == "end of stream"
    assert (session.bytes_in, session.bytes_out) == (12, 34)


async def test_open_and_close_in_one_batch(plant: Mill):
    batch = [opens(plant.edge_b), closes(plant.edge_b)]
    await plant.actions.record_events(plant.edge_b.leaf, 1, batch)
    assert await plant.actions.sessions(ADMIN) == []
    assert len(await plant.actions.sessions(ADMIN, history=True)) == 1


@pytest.mark.parametrize("batches", [(1, 1, 1), (3,), (2, 1), (1, 2)])
async def test_what_a_host_that_began_anew_opens_again_lives(plant: Mill, batches: tuple[int, ...]):
    """The caller had heard no ACCEPT, so it says OPEN to the next life of the host (C-16)."""
    sent = []
    for word in (opens, closes, opens):
        sent.append(word(plant.edge_b))
        plant.controller.pass_(1)
    number = 1
    for size in batches:
        some, sent = sent[:size], sent[size:]
        await plant.actions.record_events(plant.edge_b.leaf, number, some)
        number += size
    (session,) = await plant.actions.sessions(ADMIN)
    assert (session.id, session.ended, session.end_reason) == (CIRCUIT, None, None)
    await plant.actions.record_events(plant.edge_b.leaf, number, [closes(plant.edge_b)])
    assert await plant.actions.sessions(ADMIN) == []


async def test_an_opening_that_is_told_late_revives_no_session(plant: Mill):
    again = opens(plant.edge_b, number=3)
    plant.controller.pass_(1)
    batch = [opens(plant.edge_b, number=1), closes(plant.edge_b, number=2)]
    await plant.actions.record_events(plant.edge_b.leaf, 1, batch)
    await plant.actions.record_events(plant.edge_b.leaf, 3, [again])
    assert await plant.actions.sessions(ADMIN) == []


async def test_no_edge_ends_the_circuits_of_another(plant: Mill):
    await plant.actions.record_events(plant.edge_b.leaf, 1, [opens(plant.edge_b)])
    await plant.actions.record_events(plant.edge_a.leaf, 1, [closes(plant.edge_a)])
    assert len(await plant.actions.sessions(ADMIN)) == 1


@pytest.mark.parametrize(
    "detail",
    ["", "not json", "[1]", '{"path":"x","integrity":7}', '{"path":[1,{"a":2}]}', "[" * 4000,
     '{"bytes_in":-1,"receipt":[]}', '{"caller":{"bytes":"x"},"host":7}'],
)  # fmt: skip
async def test_whatever_a_node_writes_into_detail_is_taken(plant: Mill, detail: str):
    common = {"circuit": CIRCUIT, "service": "plc-b.modbus", "detail": detail, "reason": "a\0b"}
    opened = plant.edge_b.event(EventName.CIRCUIT_OPEN, Outcome.ALLOWED, **common)
    closed = plant.edge_b.event(EventName.CIRCUIT_CLOSE, Outcome.DONE, **common)
    await plant.actions.record_events(plant.edge_b.leaf, 1, [opened, closed])
    (session,) = await plant.actions.sessions(ADMIN, history=True)
    assert (session.bytes_in, session.integrity) == (0, "normal")
    await plant.actions.audit_tail(ADMIN, limit=2)
    assert (await plant.actions.audit_verify(ADMIN)).ok


async def test_a_session_that_moves_is_shown_where_it_is(plant: Mill):
    detail = json.dumps({"path": ["edge-a", "router-2", "edge-b"]})
    opened = opens(plant.edge_b)
    moved = plant.edge_b.event(
        EventName.CIRCUIT_MOVE, Outcome.DONE, circuit=CIRCUIT, conduit="c7", detail=detail
    )
    await plant.actions.record_events(plant.edge_b.leaf, 1, [opened, moved])
    (session,) = await plant.actions.sessions(ADMIN)
    assert session.conduit == "c7"
    assert session.path == ("edge-a", "router-2", "edge-b")
    foreign = plant.edge_a.event(
        EventName.CIRCUIT_MOVE, Outcome.DONE, circuit=CIRCUIT, conduit="c8"
    )
    await plant.actions.record_events(plant.edge_a.leaf, 1, [foreign])
    (session,) = await plant.actions.sessions(ADMIN)
    assert session.conduit == "c7", "only the edge that hosts it says so"


async def test_a_denied_attempt_gets_asset_and_address_from_the_controller(plant: Mill):
    event = plant.edge_a.event(
        EventName.CIRCUIT_OPEN, Outcome.DENIED, who="hmi-a", via="edge-a",
        service="plc-b.modbus", reason="no grant", count=3,
    )  # fmt: skip
    unknown = plant.edge_a.event(
        EventName.CIRCUIT_OPEN, Outcome.DENIED, who="hmi-a", service="plc-x.modbus"
    )
    await plant.actions.record_events(plant.edge_a.leaf, 1, [event, unknown])
    first, second = await plant.actions.audit_tail(ADMIN, limit=2)
    assert (first.asset, first.address, first.count) == ("plc-b", "192.168.1.20:502", 3)
    assert (second.asset, second.address) == ("", "")
    assert await plant.actions.sessions(ADMIN, history=True) == []


async def live(plant: Mill, *circuits: str) -> None:
    reported = [(bytes.fromhex(one), 100, 200) for one in circuits]
    await plant.actions.node_live(plant.edge_b.leaf, reported)


async def test_live_reports_count_bytes(plant: Mill):
    await plant.actions.record_events(plant.edge_b.leaf, 1, [opens(plant.edge_b)])
    await live(plant, CIRCUIT)
    (session,) = await plant.actions.sessions(ADMIN)
    assert (session.bytes_in, session.bytes_out) == (100, 200)


async def test_a_circuit_that_is_missing_twice_has_ended(plant: Mill):
    await plant.actions.record_events(plant.edge_b.leaf, 1, [opens(plant.edge_b)])
    await live(plant)
    assert len(await plant.actions.sessions(ADMIN)) == 1
    await live(plant, CIRCUIT)
    await live(plant)
    assert len(await plant.actions.sessions(ADMIN)) == 1
    await live(plant)
    assert await plant.actions.sessions(ADMIN) == []
    (session,) = await plant.actions.sessions(ADMIN, history=True)
    assert session.end_reason == "the host does not have it any more"
    await plant.actions.record_events(plant.edge_b.leaf, 2, [closes(plant.edge_b)])
    (session,) = await plant.actions.sessions(ADMIN, history=True)
    assert session.end_reason == "end of stream"  # the host's own word counts


async def test_after_a_restart_of_the_host_once_is_enough(plant: Mill):
    await plant.actions.record_events(plant.edge_b.leaf, 1, [opens(plant.edge_b)])
    await plant.edge_b.connect(boot=2)
    await live(plant)
    (session,) = await plant.actions.sessions(ADMIN, history=True)
    assert session.end_reason == "host restarted"


async def test_live_of_one_node_leaves_the_circuits_of_another(plant: Mill):
    await plant.actions.record_events(plant.edge_b.leaf, 1, [opens(plant.edge_b)])
    for _ in range(3):
        await plant.actions.node_live(plant.edge_a.leaf, [])
    assert len(await plant.actions.sessions(ADMIN)) == 1


def signed_side(node: Node, direction: int, circuit: str = CIRCUIT) -> Checkpoint:
    """What this edge signed last in one direction (C-40)."""
    digest = bytes(32)
    statement = bytes.fromhex(circuit) + bytes([direction]) + struct.pack("!QQ", 3, 12) + digest
    plant = node.credentials.anchor.digest
    signature = node.credentials.key.sign(signing_input("checkpoint", plant, statement))
    return Checkpoint(3, 12, digest, signature)


@pytest.mark.parametrize(
    ("caller", "host", "wrong"),
    [
        ("edge_a", "edge_b", ""),
        ("edge_b", "edge_b", "caller's edge"),  # the hosting edge made it up
        ("edge_a", "edge_a", "host's edge"),
        ("edge_b", None, ""),  # the circuit broke: one side says nothing, so there is no receipt
    ],
)
async def test_verify_checks_the_receipts_that_both_edges_signed(
    plant: Mill, caller: str, host: str | None, wrong: str
):
    receipt = make_receipt(
        signed_side(getattr(plant, caller), CALLER),
        None if host is None else signed_side(getattr(plant, host), HOST),
    )
    closed = plant.edge_b.event(
        EventName.CIRCUIT_CLOSE, Outcome.DONE, circuit=CIRCUIT, via="edge-a", who="hmi-a",
        detail=msgspec.json.encode({"receipt": receipt}).decode(),
    )  # fmt: skip
    await plant.actions.record_events(plant.edge_b.leaf, 1, [closed])
    verdict = await plant.actions.audit_verify(ADMIN)
    assert verdict.ok is not bool(wrong)
    assert [wrong in problem for problem in verdict.problems] == [True] * bool(wrong)
