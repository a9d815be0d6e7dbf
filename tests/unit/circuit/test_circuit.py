"""One circuit, both ends: order, credit, checkpoints, ends; each rule broken once (C-20 to C-44)."""

import pytest

from overlay import limits
from overlay.circuit.frames import decode_close, encode_close, encode_credit
from overlay.circuit.life import ACKNOWLEDGE_WITHIN, LINGER
from overlay.circuit.sending import KEPT_FRAMES
from overlay.crypto.checkpoint import CALLER, HOST, Checkpoint
from overlay.errors import Code, DecodeError, LateError, ProtocolError, TamperError
from overlay.wire.bodies import DATAGRAMS, Resume, ResumeState
from overlay.wire.codec import decode
from overlay.wire.header import Flag, Header, Kind
from tests.support.circuit_pair import End, Pair


def forge_credit(pair: Pair, ack: int, limit: int) -> None:
    """The host says this, with its own keys: a peer that lies."""
    frame = pair.host.core._controls.credit(0, ack, limit)
    pair.caller.arrive(
        Header(Kind.CREDIT, 0, len(frame.payload), 0, frame.sequence), bytes(frame.payload)
    )


def test_bytes_go_both_ways_in_order():
    pair = Pair()
    pair.caller.send(b"question ")
    pair.caller.send(b"mark")
    pair.host.send(b"answer")
    pair.settle()
    assert pair.host.got == b"question mark"
    assert pair.caller.got == b"answer"


@pytest.mark.parametrize(
    ("ack", "limit", "words"),
    [
        (3, limits.INITIAL_WINDOW, "3 frames are acknowledged, 2 were sent"),
        (1, limits.INITIAL_WINDOW - 1, "went back"),
        (1, 1 << 60, "above the largest window"),
        (1, limits.MAX_WINDOW + 7, "above the largest window"),
    ],
)
def test_a_false_acknowledgement_or_credit_ends_the_circuit(ack: int, limit: int, words: str):
    pair = Pair()
    pair.caller.send(b"one")
    pair.caller.send(b"two")
    forge_credit(pair, ack, limit)
    assert pair.caller.end.code is Code.PROTOCOL
    assert words in pair.caller.end.reason


def test_an_acknowledgement_never_goes_back():
    pair = Pair()
    pair.caller.send(b"one")
    forge_credit(pair, 1, limits.INITIAL_WINDOW)
    forge_credit(pair, 0, limits.INITIAL_WINDOW)
    assert pair.caller.end.code is Code.PROTOCOL


def test_more_than_the_credit_is_a_protocol_error():
    pair = Pair()
    pair.caller.core._sending.limit = 1 << 30
    for _ in range(5):
        pair.caller.core.send(bytes(60_000), 0.0)
    pair.caller.take()
    pair.settle(reading=False)
    assert pair.host.end.code is Code.PROTOCOL
    assert len(pair.host.got) <= limits.INITIAL_WINDOW


def test_the_sender_stops_at_its_credit_and_keeps_no_more():
    pair = Pair()
    while pair.caller.send(bytes(limits.MAX_DATA)):
        pass
    assert len(pair.caller.sent) == limits.INITIAL_WINDOW
    assert pair.caller.core.kept_bytes <= limits.INITIAL_WINDOW + 1024
    with pytest.raises(ValueError):
        pair.caller.core.send(b"x", 0.0)
    pair.settle()
    assert pair.caller.core.room() > 0
    assert pair.caller.core.kept_bytes < 1024


def test_who_gives_credit_without_acknowledging_makes_nobody_keep_more_than_the_largest_window():
    pair = Pair()
    limit = limits.INITIAL_WINDOW
    while True:
        while pair.caller.send(bytes(limits.MAX_DATA)):
            pass
        if len(pair.caller.sent) < limit:
            break
        limit = len(pair.caller.sent) + limits.MAX_WINDOW
        forge_credit(pair, 0, limit)
    assert not pair.caller.end
    assert pair.caller.core.kept_bytes <= limits.MAX_WINDOW + 2 * limits.MAX_DATA


def test_kept_frames_are_bounded_however_small():
    pair = Pair()
    while pair.caller.send(b"x"):
        pair.caller.wire.clear()
    assert len(pair.caller.sent) == KEPT_FRAMES


def test_kept_bytes_are_bounded_where_credit_comes_without_acknowledgement():
    """C-31: each limit is one that may be given; together they would be endless."""
    pair = Pair()
    sending = pair.caller.core._sending
    sending._pace.frame = limits.MAX_DATA  # a line that was fast
    for _ in range(4):
        while pair.caller.send(bytes(limits.MAX_DATA)):
            pair.caller.wire.clear()
        sending.acknowledge(0, sending._running.size + limits.MAX_WINDOW)
    assert sending.kept_bytes <= limits.MAX_WINDOW + KEPT_FRAMES * limits.TAG_SIZE
    assert len(pair.caller.sent) > limits.MAX_WINDOW - limits.MAX_DATA


def test_a_reader_that_keeps_up_gets_a_window_that_grows_up_to_the_limit():
    pair = Pair()
    for _ in range(40):
        while pair.caller.send(bytes(limits.MAX_DATA)):
            pass
        pair.now += 0.1
        pair.settle()
    assert pair.host.core._receiving.window == limits.MAX_WINDOW


def test_empty_data_is_refused():
    pair = Pair()
    sealed = pair.caller.core._sending._sealer.seal(Kind.DATA, 0, b"")
    pair.host.arrive(Header(Kind.DATA, 0, 16, 0, 0), bytes(sealed.data))
    assert pair.host.end.code is Code.PROTOCOL


# --- checkpoints ------------------------------------------------------------------------------------


def test_traffic_is_checkpointed_within_100_ms_and_idle_circuits_say_nothing():
    pair = Pair()
    pair.caller.send(b"poll")
    pair.settle()
    assert pair.caller.core.deadline() == pytest.approx(limits.CHECKPOINT_INTERVAL)
    pair.pass_time(limits.CHECKPOINT_INTERVAL)
    pair.settle()
    assert pair.host.core.receipt.caller.bytes == 4
    assert pair.caller.core.deadline() is None
    assert pair.caller.core.kept_bytes == 0  # a checkpoint is acknowledged at once


def test_four_megabytes_are_checkpointed_whatever_the_time():
    pair = Pair()
    while len(pair.caller.sent) < limits.CHECKPOINT_BYTES:
        pair.caller.send(bytes(limits.MAX_DATA))
        pair.settle()
    assert pair.host.core.receipt.caller.bytes == len(pair.caller.sent)


def without_checkpoints(pair: Pair) -> None:
    """A sender that never signs what it sends."""
    sending = pair.caller.core._sending
    sending.deadline = 1e9
    data = sending.data

    def unsigned(plain, now):
        sending._since = 0
        return data(plain, now)

    pair.caller.core.send = lambda plain, now: pair.caller.core._out.extend(unsigned(plain, now))


def test_data_without_a_checkpoint_for_4_mib_and_one_frame_ends_the_circuit():
    pair = Pair()
    without_checkpoints(pair)
    pair.now = 1e6  # time alone never counts
    while pair.host.end is None and len(pair.caller.sent) < 20_000_000:
        pair.caller.send(bytes(limits.MAX_DATA))
        pair.settle()
    assert pair.host.end.code is Code.TAMPER
    assert (
        limits.CHECKPOINT_BYTES
        < len(pair.host.got)
        <= limits.CHECKPOINT_BYTES + 2 * limits.MAX_DATA
    )


@pytest.mark.parametrize("field", ["frames", "bytes", "digest", "signature"])
@pytest.mark.parametrize("kind", [Kind.CHECKPOINT, Kind.CLOSE])
def test_a_wrong_checkpoint_ends_the_circuit(field: str, kind: Kind):
    pair = Pair()
    pair.caller.send(b"poll")
    sending = pair.caller.core._sending
    true = sending._sign()
    values = {name: getattr(true, name) for name in ("frames", "bytes", "digest", "signature")}
    values[field] = (
        values[field] + 1 if isinstance(values[field], int) else bytes(len(values[field]))
    )
    lie = Checkpoint(**values)
    plain = lie.encode() if kind is Kind.CHECKPOINT else encode_close(lie, 0, Code.NORMAL, "")
    frame = sending._seal(kind, plain)
    pair.caller.wire.append(
        (Header(kind, 0, len(frame.payload), 0, frame.sequence), bytes(frame.payload))
    )
    pair.settle()
    assert pair.host.end.code is Code.TAMPER
    assert pair.host.core.receipt.caller is None


def test_a_checkpoint_of_the_other_direction_does_not_hold():
    pair = Pair()
    pair.caller.send(b"same")
    sending = pair.caller.core._sending
    sending._signing = sending._signing._replace(direction=1 - CALLER)
    pair.pass_time(1.0)
    pair.settle()
    assert pair.host.end.code is Code.TAMPER


def test_a_checkpoint_about_nothing_new_is_refused():
    pair = Pair()
    pair.caller.send(b"poll")
    for _ in range(2):
        pair.caller.core._stream(pair.caller.core._sending.checkpoint())
    pair.caller.take()
    pair.settle()
    assert pair.host.end.code is Code.PROTOCOL


# --- ends -------------------------------------------------------------------------------------------


def test_both_ends_are_over_when_both_directions_are_closed_and_acknowledged():
    pair = Pair()
    pair.caller.send(b"last words")
    pair.caller.handle(pair.caller.core.end(pair.now))
    pair.settle()
    assert pair.host.half_closed
    assert not pair.caller.end
    assert not pair.host.end
    pair.host.send(b"and mine")
    pair.host.handle(pair.host.core.end(pair.now))
    pair.settle()
    assert pair.caller.got == b"and mine"
    assert pair.caller.end.code is pair.host.end.code is Code.NORMAL
    assert pair.caller.core.finished
    assert pair.host.core.finished
    assert pair.caller.core.receipt == pair.host.core.receipt


def kinds(end: End) -> list[tuple[Kind, bool]]:
    """What is on its way, and whether it is called the last."""
    return [(header.kind, bool(header.flags & Flag.LAST)) for header, _ in end.wire]


@pytest.mark.parametrize("first", [CALLER, HOST])
def test_an_end_costs_three_frames_when_the_other_side_ends_at_once(first: int):
    """C-30, L-38: CLOSE acknowledges what came, and the last frame of each side says that it is the last."""
    pair = Pair()
    pair.caller.send(b"poll")
    pair.host.send(b"answer")
    pair.settle()
    one, other = pair.ends if first == CALLER else reversed(pair.ends)
    one.handle(one.core.end(pair.now))
    assert kinds(one) == [(Kind.CLOSE, False)]
    pair.deliver(one)
    assert not other.wire, "its own CLOSE will acknowledge this one"
    other.handle(other.core.end(pair.now))
    assert kinds(other) == [(Kind.CLOSE, True)]
    pair.deliver(other)
    assert one.core.finished
    assert kinds(one) == [(Kind.CREDIT, True)]
    pair.deliver(one)
    assert other.core.finished
    assert not one.wire
    assert not other.wire
    assert one.end.code is other.end.code is Code.NORMAL
    assert one.core.receipt == other.core.receipt


def test_a_half_close_is_acknowledged_within_50_ms_where_the_other_side_goes_on():
    pair = Pair()
    pair.caller.handle(pair.caller.core.end(pair.now))
    pair.settle()
    pair.pass_time(ACKNOWLEDGE_WITHIN - 0.001)
    assert not pair.host.wire
    pair.pass_time(0.002)
    assert kinds(pair.host) == [(Kind.CREDIT, False)]
    pair.settle()
    assert pair.caller.core._sending.all_acknowledged
    assert pair.host.core.deadline() is None


def test_where_both_end_at_once_nothing_is_called_the_last_that_might_not_be():
    pair = Pair()
    for end in pair.ends:
        end.send(b"bytes")
        end.handle(end.core.end(pair.now))
    pair.deliver(pair.caller, 2)
    assert kinds(pair.host)[-2:] == [(Kind.CLOSE, False), (Kind.CREDIT, False)]
    pair.settle()
    assert pair.caller.end.code is pair.host.end.code is Code.NORMAL


def test_in_a_circuit_for_datagrams_nothing_is_called_the_last():
    """A CREDIT may overtake datagrams that still wait."""
    pair = Pair(transport=DATAGRAMS)
    said = []
    for end in pair.ends:
        end.handle(end.core.end(pair.now))
        said += kinds(end)
        pair.deliver(end, 9)
    said += kinds(pair.caller) + kinds(pair.host)
    assert [kind for kind, _ in said] == [Kind.CLOSE, Kind.CLOSE, Kind.CREDIT]
    assert not any(last for _, last in said)


def test_who_has_said_its_last_frame_and_breaks_off_gives_up_the_hop():
    pair = Pair()
    pair.caller.handle(pair.caller.core.end(pair.now))
    pair.settle()
    pair.host.handle(pair.host.core.end(pair.now))
    assert kinds(pair.host) == [(Kind.CLOSE, True)]
    pair.host.handle(pair.host.core.abort(Code.KILLED, "enough", pair.now))
    assert pair.host.core.finished, "the hop takes nothing more"
    pair.cut()
    pair.resume()
    pair.host.wire.popleft()  # the answer; what follows is not marked, since more follows it
    assert kinds(pair.host) == [(Kind.CLOSE, False), (Kind.CLOSE, False)]


def test_a_close_that_acknowledges_what_was_never_sent_ends_the_circuit():
    pair = Pair()
    pair.host.send(b"answer")
    pair.settle()
    pair.caller.core._stream(pair.caller.core._sending.close(Code.NORMAL, "", 2))
    pair.caller.take()
    pair.settle()
    assert pair.host.end.code is Code.PROTOCOL
    assert "2 frames are acknowledged, 1 were sent" in str(pair.host.faults)


def test_an_end_without_the_last_acknowledgement_waits_ten_seconds():
    pair = Pair()
    pair.caller.handle(pair.caller.core.end(pair.now))
    pair.settle()
    pair.host.handle(pair.host.core.end(pair.now))
    pair.host.wire.clear()  # never arrives
    pair.pass_time(LINGER - 0.01)
    assert not pair.host.end
    pair.pass_time(0.02)
    assert pair.host.end.code is Code.PATH_LOST
    assert pair.host.core.finished


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.CHECKPOINT, Kind.CLOSE])
def test_nothing_of_the_stream_follows_close(kind: Kind):
    pair = Pair()
    pair.caller.handle(pair.caller.core.end(pair.now))
    sealed = pair.caller.core._sending._sealer.seal(kind, 0, b"more")
    pair.caller.wire.append(
        (Header(kind, 0, sealed.length, 0, sealed.sequence), bytes(sealed.data))
    )
    pair.settle()
    assert pair.host.end.code is Code.PROTOCOL


def test_an_abort_carries_its_reason_and_lingers_until_it_is_heard():
    pair = Pair()
    pair.host.handle(pair.host.core.abort(Code.KILLED, "é" * 300, pair.now))
    assert pair.host.end.code is Code.KILLED
    assert not pair.host.core.finished
    pair.settle()
    assert pair.caller.end.code is Code.KILLED
    assert pair.caller.end.reason == "é" * 100
    assert pair.host.core.finished


def test_after_its_own_abort_an_end_delivers_nothing():
    pair = Pair()
    pair.caller.send(b"late")
    pair.host.handle(pair.host.core.abort(Code.KILLED, "", pair.now))
    pair.deliver(pair.caller)
    assert pair.host.got == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(112),
        bytes(120),
        bytes(120) + b"\xff",
        bytes(120) + b"\x00\xff",
        bytes(120) + b"\0" + b"x" * 201,
    ],
)
def test_what_is_no_close_does_not_decode(raw: bytes):
    with pytest.raises(DecodeError):
        decode_close(raw)


# --- roles, kinds and flags ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [Kind.READY, Kind.REFUSE, Kind.RESUME, Kind.OPEN, Kind.ACCEPT, Kind.PING]
)
def test_a_host_gets_no_answers(kind: Kind):
    pair = Pair()
    pair.host.arrive(Header(kind, 0, 40, 0, 9), bytes(40))
    assert pair.host.end.code is Code.PROTOCOL


@pytest.mark.parametrize("flags", [Flag.GRANT, Flag.FLIGHT, Flag.GRANT | Flag.FLIGHT])
@pytest.mark.parametrize("tail", [b"", b"tail"])
def test_a_credit_that_does_not_hold_what_its_flags_say(flags: Flag, tail: bytes):
    pair = Pair()
    core = pair.caller.core
    sealed = core._controls._sealer.seal(
        Kind.CREDIT, int(flags), encode_credit(0, limits.INITIAL_WINDOW)
    )
    payload = bytes(sealed.data) + tail
    pair.host.arrive(Header(Kind.CREDIT, int(flags), len(payload), 0, sealed.sequence), payload)
    assert pair.host.end is not None
    assert pair.host.end.code in (Code.PROTOCOL, Code.TAMPER)


def test_a_host_cannot_send_a_grant():
    pair = Pair()
    frame = pair.host.core._controls.credit(int(Flag.GRANT), 0, limits.INITIAL_WINDOW, b"grant")
    pair.caller.arrive(
        Header(frame.kind, frame.flags, len(frame.payload), 0, frame.sequence), bytes(frame.payload)
    )
    assert pair.caller.end.code is Code.PROTOCOL


def test_a_second_ready_and_a_refusal_after_it_are_refused():
    for refuse in (False, True):
        pair = Pair()
        pair.host.core.over = None
        if refuse:
            pair.host.core.refuse(Code.UNREACHABLE, "", pair.now)
        else:
            pair.host.core.ready(2)
        pair.host.take()
        pair.deliver(pair.host)
        assert pair.caller.end.code is Code.PROTOCOL


def test_a_stream_takes_no_datagrams_and_the_reverse():
    stream, flow = Pair(), Pair(transport=1)
    with pytest.raises(ValueError, match="sends no datagrams"):
        stream.caller.core.datagrams.seal(b"x")
    sealed = flow.caller.core.datagrams.seal(b"x")
    stream.host.arrive(Header(Kind.DATAGRAM, 0, len(sealed.payload), 0, 0), bytes(sealed.payload))
    assert stream.host.end.code is Code.PROTOCOL
    flow.caller.send(b"x")
    flow.settle()
    assert flow.host.end.code is Code.PROTOCOL


def test_a_host_is_silent_before_ready():
    pair = Pair(opened=False)
    for _ in range(100):
        pair.caller.send(b"x")
    pair.settle()
    assert not pair.host.wire
    assert pair.caller.core._sending._acknowledged == 0
    pair.host.core.ready(1)
    pair.host.take()
    kinds = [header.kind for header, _ in pair.host.wire]
    assert kinds == [Kind.READY, Kind.CREDIT]
    assert pair.host.wire[0][0].sequence == 0


# --- strict integrity ---------------------------------------------------------------------------------


def test_strict_frames_are_signed_one_by_one():
    pair = Pair(integrity=1)
    pair.caller.send(b"poll")
    header, payload = pair.caller.wire[0]
    assert header.flags & Flag.SIGNED
    assert len(payload) == 4 + limits.TAG_SIZE + limits.SIGNATURE_SIZE
    pair.settle()
    assert pair.host.got == b"poll"


@pytest.mark.parametrize("integrity", [0, 1])
def test_a_frame_is_signed_exactly_where_it_must_be(integrity: int):
    pair, other = Pair(integrity=integrity), Pair(integrity=1 - integrity)
    other.caller.send(b"poll")
    pair.host.arrive(*other.caller.wire[0])
    assert pair.host.end.code is Code.TAMPER
    assert pair.host.got == b""


@pytest.mark.parametrize("transport", [0, 1])
def test_a_wrong_signature_delivers_nothing(transport: int):
    pair = Pair(integrity=1, transport=transport)
    if transport:
        pair.caller.send_datagram(b"poll")
    else:
        pair.caller.send(b"poll")
    header, payload = pair.caller.wire[0]
    pair.host.arrive(header, payload[:-1] + bytes((payload[-1] ^ 1,)))
    assert pair.host.end.code is Code.TAMPER
    assert pair.host.got == b""
    assert pair.host.datagrams == []


# --- datagrams ------------------------------------------------------------------------------------------


def test_datagrams_come_in_any_order_and_once():
    pair = Pair(transport=1)
    for number in range(5):
        pair.caller.send_datagram(b"%d" % number)
    frames = list(pair.caller.wire)
    for frame in (*frames[::-1], *frames):
        pair.host.arrive(*frame)
    assert pair.host.datagrams == [b"4", b"3", b"2", b"1", b"0"]
    assert pair.host.core.datagrams.dropped == 5


def test_a_datagram_older_than_the_window_is_dropped():
    pair = Pair(transport=1)
    frames = []
    for _ in range(limits.REPLAY_WINDOW + 1):
        pair.caller.send_datagram(b"x")
        frames.append(pair.caller.wire.pop())
    pair.host.arrive(*frames[-1])
    pair.host.arrive(*frames[0])
    assert len(pair.host.datagrams) == 1
    assert not pair.host.end


def test_a_datagram_has_a_largest_size():
    pair = Pair(transport=1)
    with pytest.raises(ValueError):
        pair.caller.send_datagram(bytes(65_508))


def test_without_a_path_datagrams_are_dropped_and_counted():
    pair = Pair(transport=1)
    pair.cut()
    assert not pair.caller.send_datagram(b"x")
    assert pair.caller.core.datagrams.dropped == 1


# --- resume ---------------------------------------------------------------------------------------------


def test_after_a_resume_both_send_what_the_other_lacks_bit_for_bit():
    pair = Pair()
    pair.caller.send(b"one")
    pair.caller.send(b"two")
    pair.host.send(b"three")
    lost = [list(end.wire) for end in pair.ends]
    pair.cut()
    pair.resume()
    again = list(pair.host.wire)[1:]
    assert again == lost[1]
    pair.deliver(pair.host)
    assert list(pair.caller.wire) == lost[0]
    pair.settle()
    assert pair.host.got == b"onetwo"
    assert pair.caller.got == b"three"


def test_what_was_delivered_is_not_sent_again():
    pair = Pair()
    pair.caller.send(b"one")
    pair.settle()
    pair.cut()
    pair.caller.handle([])
    pair.resume()
    pair.settle()
    assert pair.host.got == b"one"
    assert pair.host.end is pair.caller.end is None


def test_a_resume_of_an_older_generation_is_late_and_one_that_is_forged_is_not():
    pair = Pair()
    pair.cut()
    header, payload = pair.ask_to_resume()
    pair.caller.handle(pair.caller.core.path_lost(pair.now))
    pair.resume()  # the second
    body = decode(Resume, payload)
    for _ in range(2):
        with pytest.raises(LateError):
            pair.host.core.resumed(header, body, pair.now)
    for forged in (
        Resume(body.intent, bytes(len(body.sealed))),
        Resume(body.intent + b"x", body.sealed),
    ):
        length = header.length + len(forged.intent) - len(body.intent)
        with pytest.raises(TamperError) as caught:
            pair.host.core.resumed(header._replace(length=length), forged, pair.now)
        assert not isinstance(caught.value, LateError)
    with pytest.raises(TamperError) as caught:  # the second one's number under the first one's seal
        pair.host.core.resumed(header._replace(sequence=header.sequence + 1), body, pair.now)
    assert not isinstance(caught.value, LateError)
    pair.settle()
    pair.caller.send(b"goes on")
    pair.settle()
    assert pair.host.got == b"goes on"


@pytest.mark.parametrize("forged", [False, True])
def test_a_first_credit_that_comes_after_a_resume_is_late_unless_it_is_forged(forged: bool):
    pair = Pair(opened=False)
    pair.caller.core.announce()
    pair.caller.take()
    header, payload = pair.caller.wire[0]
    pair.settle()
    pair.host.core.ready(1)
    pair.host.take()
    pair.settle()
    pair.cut()
    pair.resume()
    pair.settle()
    if forged:
        payload = payload[:-1] + bytes((payload[-1] ^ 1,))
    with pytest.raises(TamperError) as caught:
        pair.host.core.adopt(header, memoryview(payload), pair.now)
    assert isinstance(caught.value, LateError) is not forged
    pair.caller.send(b"goes on")
    pair.settle()
    assert pair.host.got == b"goes on"


def test_a_question_before_ready_and_after_the_end_uses_up_no_number():
    pair = Pair(opened=False)
    pair.host.core.ready(1)
    pair.host.take()
    frame = pair.host.core.ask(pair.intent(), ())
    header = Header(frame.kind, 0, len(frame.payload), 0, frame.sequence)
    body = decode(Resume, frame.payload)
    assert not pair.caller.core.asked(header, body)
    pair.settle()
    assert pair.caller.core.opened, "READY, which was said before, still counts"
    assert not pair.caller.faults
    assert pair.caller.core.asked(header, body), "and the question as well"
    assert not pair.caller.core.asked(header, body), "once"


def test_a_resume_with_another_intent_does_not_hold():
    pair = Pair()
    pair.cut()
    header, payload = pair.ask_to_resume()
    body = decode(Resume, payload)
    forged = Resume(body.intent[:-1] + b"\xa0", body.sealed)
    with pytest.raises(TamperError):
        pair.host.core.resumed(header, forged, pair.now)
    with pytest.raises(TamperError):
        pair.host.core.resumed(header, Resume(body.intent, bytes(len(body.sealed))), pair.now)
    assert pair.host.core.generation == 0


def test_frames_before_the_answer_are_refused():
    pair = Pair()
    pair.host.send(b"early")
    frame = pair.host.wire[0]
    pair.cut()
    pair.caller.core.resume(pair.intent(), (), ())
    pair.caller.arrive(*frame)
    assert pair.caller.end.code is Code.PROTOCOL


def test_the_answer_to_another_resume_is_refused():
    pair = Pair()
    pair.cut()
    pair.resume()
    answer = pair.host.wire[0]
    pair.caller.core.path_lost(pair.now)
    pair.caller.core.resume(pair.intent(), (), ())
    pair.caller.arrive(*answer)
    assert pair.caller.end.code is Code.PROTOCOL


def test_a_forged_acknowledgement_in_a_resume_is_refused():
    pair = Pair()
    pair.host.send(b"one")
    pair.cut()
    frame = pair.caller.core._controls.resume(
        pair.intent(), ResumeState(1, 2, limits.INITIAL_WINDOW)
    )
    header = Header(Kind.RESUME, 0, len(frame.payload), 0, frame.sequence)
    with pytest.raises(ProtocolError):
        pair.host.core.resumed(header, decode(Resume, frame.payload), pair.now)


@pytest.mark.parametrize("asks", [False, True])
def test_a_resume_that_is_new_and_names_an_old_generation_moves_nothing(asks: bool):
    """Its caller says so itself; `asks` is the host's to say."""
    pair = Pair()
    pair.cut()
    pair.resume()
    pair.settle()
    state = ResumeState(2 if asks else 1, 0, limits.INITIAL_WINDOW, ask=asks)
    frame = pair.caller.core._controls.resume(pair.intent(), state)
    header = Header(Kind.RESUME, 0, len(frame.payload), 0, frame.sequence)
    with pytest.raises(ProtocolError, match="older generation"):
        pair.host.core.resumed(header, decode(Resume, frame.payload), pair.now)
    assert pair.host.core.generation == 1
    pair.caller.send(b"goes on")
    pair.settle()
    assert pair.host.got == b"goes on"


def test_who_was_resumed_takes_no_path_by_an_open_any_more():
    """C-15: also where its caller says so with a number that is new."""
    pair = Pair()
    pair.cut()
    pair.resume()
    pair.settle()
    frame = pair.caller.core._controls.credit(0, 0, limits.INITIAL_WINDOW)
    header = Header(Kind.CREDIT, 0, len(frame.payload), 0, frame.sequence)
    with pytest.raises(ProtocolError, match="was resumed"):
        pair.host.core.adopt(header, memoryview(bytes(frame.payload)), pair.now)
    pair.caller.send(b"goes on")
    pair.settle()
    assert pair.host.got == b"goes on"


def test_a_circuit_without_a_path_ends_after_the_resume_time():
    pair = Pair()
    pair.cut()
    pair.pass_time(limits.RESUME_TIME - 0.1)
    assert not pair.caller.end
    pair.pass_time(0.2)
    assert pair.caller.end.code is pair.host.end.code is Code.PATH_LOST


def test_what_was_ended_without_a_path_is_said_after_the_resume():
    pair = Pair()
    pair.cut()
    pair.host.handle(pair.host.core.abort(Code.MAX_SESSION, "over", pair.now))
    assert pair.host.core.finished
    pair.resume()
    pair.settle()
    assert pair.caller.end.code is Code.MAX_SESSION


# --- found by tests/model -----------------------------------------------------------------------------


def test_a_program_that_half_closed_can_still_break_off_and_the_other_learns_it():
    """C-32: nothing of what it will never read looks as if it had arrived."""
    pair = Pair()
    pair.caller.handle(pair.caller.core.end(pair.now))
    pair.settle()
    pair.host.send(b"a long answer")
    pair.caller.handle(pair.caller.core.abort(Code.KILLED, "enough", pair.now))
    pair.host.handle(pair.host.core.end(pair.now))
    pair.settle()
    assert pair.caller.got == b""
    assert (pair.host.end.code, pair.host.end.reason) == (Code.KILLED, "enough")
    assert all(end.core.finished for end in pair.ends)
    assert not pair.caller.faults + pair.host.faults


def test_after_close_nothing_but_an_abort_may_follow():
    pair = Pair()
    pair.caller.handle(pair.caller.core.end(pair.now))
    again = pair.caller.core._sending.close(Code.NORMAL, "", 1)
    pair.caller.core._out.append(again)
    pair.caller.take()
    pair.settle()
    assert pair.host.end.code is Code.PROTOCOL


def test_an_abort_whose_close_was_lost_is_told_before_what_resume_acknowledges():
    pair = Pair()
    pair.caller.send(b"write")
    pair.caller.handle(pair.caller.core.end(pair.now))
    pair.host.handle(pair.host.core.end(pair.now))
    pair.deliver(pair.host)
    pair.host.handle(pair.host.core.abort(Code.KILLED, "", pair.now))
    pair.deliver(pair.caller, 2)
    assert pair.host.got == b""
    host = pair.host.core
    for end in pair.ends:
        end.wire.clear()
    pair.path = False
    pair.caller.handle(pair.caller.core.path_lost(pair.now))
    assert not host.finished, "it has not noticed"
    pair.resume()
    pair.settle()
    assert pair.caller.end.code is Code.KILLED


def test_lost_bytes_are_no_good_end_when_the_host_is_gone():
    """C-63: both directions had ended, but what the caller said last never arrived."""
    for arrives, code in ((False, Code.RESTARTED), (True, Code.NORMAL)):
        pair = Pair()
        pair.caller.send(b"write")
        pair.caller.handle(pair.caller.core.end(pair.now))
        pair.pass_time(limits.CHECKPOINT_INTERVAL)
        pair.host.handle(pair.host.core.end(pair.now))
        if arrives:
            pair.deliver(pair.caller)
            frame = pair.host.core._controls.credit(0, *pair.host.core._receiving.credit())
            pair.host.core._out.append(frame)
            pair.host.take()
        pair.deliver(pair.host, 3)
        pair.cut()
        pair.caller.handle(
            pair.caller.core.unreachable(Code.RESTARTED, "the host restarted", pair.now)
        )
        assert pair.caller.end.code is code


@pytest.mark.parametrize("knows", ["nobody", "caller", "host"])
def test_without_a_path_who_knows_that_all_arrived_ends_well_and_any_other_badly(knows: str):
    """C-63, by time: both directions had ended; to whom the other's end and acknowledgement came."""
    pair = Pair()
    pair.caller.send(b"write")
    pair.caller.handle(pair.caller.core.end(pair.now))
    pair.pass_time(limits.CHECKPOINT_INTERVAL)
    pair.host.handle(pair.host.core.end(pair.now))
    if knows == "caller":
        pair.deliver(pair.caller)
        pair.host.core._receiving.want_credit()
        pair.host.core._credit_if_due()
        pair.host.take()
        pair.deliver(pair.host, 3)
    elif knows == "host":
        pair.deliver(pair.caller, 2)
    assert [end.end for end in pair.ends] == [None] * 2
    pair.cut()
    pair.now += limits.RESUME_TIME
    for name, end in zip(("caller", "host"), pair.ends, strict=True):
        end.tick()
        assert end.end.code is (Code.NORMAL if name == knows else Code.PATH_LOST)


def test_time_without_a_path_counts_while_it_lasts_and_when_it_ends_the_circuit():
    pair = Pair()
    pair.cut()
    pair.now += 10.0
    assert [end.core.stalled_by(pair.now) for end in pair.ends] == pytest.approx([10.0] * 2)
    pair.now += limits.RESUME_TIME
    for end in pair.ends:
        end.tick()
        assert end.end.code is Code.PATH_LOST
        assert end.core.stalled_by(pair.now + 5.0) == pytest.approx(10.0 + limits.RESUME_TIME)


@pytest.mark.parametrize("way", ["resumed", "aborted", "unreachable", "aborted while resuming"])
def test_time_without_a_path_ends_with_whatever_ends_it(way: str):
    pair = Pair()
    pair.cut()
    pair.now += 2.0
    caller = pair.caller
    if way == "resumed":
        pair.resume()
        pair.settle()
    elif way == "unreachable":
        caller.handle(caller.core.unreachable(Code.RESTARTED, "", pair.now))
    else:
        if way == "aborted while resuming":
            pair.ask_to_resume()
        caller.handle(caller.core.abort(Code.KILLED, "", pair.now))
    pair.now += 5.0
    assert caller.core.stalled_by(pair.now) == pytest.approx(2.0)


def test_time_without_a_path_before_ready_ends_with_the_path_or_the_refusal():
    """C-17: the caller repeats OPEN, the host adopts the hop on which its CREDIT came again."""
    pair = Pair(opened=False)
    pair.caller.core.announce()
    pair.caller.take()
    pair.settle()
    pair.cut()
    pair.now += 2.0
    pair.path = True
    pair.caller.core.reopened(pair.now)
    pair.caller.take()
    header, payload = pair.caller.wire.popleft()
    pair.host.handle(pair.host.core.adopt(header, memoryview(payload), pair.now))
    pair.now += 5.0
    assert [end.core.stalled_by(pair.now) for end in pair.ends] == pytest.approx([2.0] * 2)
    pair.cut()
    pair.now += 3.0
    pair.host.handle(pair.host.core.refuse(Code.UNREACHABLE, "", pair.now))
    assert pair.host.core.stalled_by(pair.now + 5.0) == pytest.approx(5.0)


def test_who_resumes_too_late_learns_that_the_host_has_given_up():
    """C-62: the host waited 30 s from when it noticed, which is earlier than the caller did."""
    pair = Pair()
    pair.cut()
    pair.now += limits.RESUME_TIME
    pair.host.tick()
    assert pair.host.end.code is Code.PATH_LOST
    pair.resume()
    pair.settle()
    assert pair.caller.end.code is Code.PATH_LOST
    assert all(end.core.finished for end in pair.ends)
