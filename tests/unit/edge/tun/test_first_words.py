"""A client that is answered at once: its circuit is opened with what it says first, or soon without (C-12)."""

import asyncio
import socket
from typing import Any

import pytest

from edge.tun import nat
from edge.tun.first_words import SILENT, FirstWords
from overlay import limits
from overlay.aio.stream_socket import SocketConnection
from tests.unit.edge.tun.test_stack import FAKE, Bench, segment, turn


class Circuit:
    """An open circuit that notes what is said in it."""

    def __init__(self) -> None:
        self.closed: Any = asyncio.get_running_loop().create_future()
        self.outcome: Any = None
        self.companion: Any = None
        self.said = b""
        self.ended = False
        self.user: Any = None

    def room(self) -> int:
        return 1 << 16

    def start(self, user: Any, lend: Any) -> None:
        self.user = user

    def send(self, data: Any) -> None:
        self.said += bytes(data)

    def consumed(self, _: int) -> None: ...

    def end(self) -> None:
        self.ended = True

    def break_off(self, *_: Any) -> None:
        self.outcome = "broken"

    def abort(self, *_: Any) -> None:
        self.closed.set_result(None)


class Caller:
    """A client's end, and what became of its connection; `said` came before it was accepted."""

    def __init__(self, words: FirstWords, *, refuse: bool = False, said: bytes = b"") -> None:
        self.sock, ours = socket.socketpair()
        self.sock.send(said)
        self.sock.settimeout(0)
        self.refuse = refuse
        self.early: list[bytes] = []
        self.circuit: Circuit | None = None
        self.told: list[Any] = []
        self.connection = SocketConnection(ours, ("100.64.0.2", 1025))
        words.hear(self.connection, "plc-b.modbus", self._open, self.told.append)

    def _open(self, early: bytes) -> Any:
        self.early.append(early)
        self.circuit = None if self.refuse else Circuit()
        return self.circuit

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(30):
            while not holds():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)

    @property
    def cut(self) -> bool:
        """The client has been reset or closed."""
        try:
            return self.sock.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.connection.abort()
        self.sock.close()


@pytest.fixture
async def words():
    made = FirstWords()
    yield made
    made.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edge.tun.first_words.PATIENCE", 1000.0)


async def test_what_a_client_says_first_goes_with_open_and_the_rest_behind_it(
    words: FirstWords, patient: None
):
    caller = Caller(words)
    await turn()
    assert caller.early == [], "nothing is opened before"
    caller.sock.send(b"poll")
    await caller.until(lambda: caller.told)
    assert caller.early == [b"poll"]
    assert caller.told == [caller.circuit]
    assert caller.circuit is not None
    assert caller.circuit.user is caller.circuit.companion
    caller.sock.send(b" again")
    circuit: Any = caller.circuit
    await caller.until(lambda: circuit.said)
    assert circuit.said == b" again"
    assert len(words.waiting) == 0
    caller.close()


async def test_no_more_is_early_than_open_may_carry(words: FirstWords, patient: None):
    caller = Caller(words)
    data = bytes(range(256)) * (limits.MAX_EARLY_DATA // 256 + 40)
    caller.sock.sendall(data)
    await caller.until(lambda: caller.told)
    assert caller.circuit is not None
    await caller.until(lambda: len(caller.early[0]) + len(caller.circuit.said) == len(data))
    assert len(caller.early[0]) == limits.MAX_EARLY_DATA
    assert caller.early[0] + caller.circuit.said == data
    caller.close()


async def test_where_clients_are_silent_the_next_is_not_waited_for_until_that_is_forgotten(
    words: FirstWords, monkeypatch: pytest.MonkeyPatch
):
    callers = []
    for _ in range(SILENT):
        callers.append(caller := Caller(words))
        assert caller.told == []
        await caller.until(lambda caller=caller: caller.told)
        assert caller.early == [b""]
    monkeypatch.setattr("edge.tun.first_words.PATIENCE", 1000.0)
    callers.append(caller := Caller(words))
    assert caller.early == [b""]
    assert caller.told == [caller.circuit]
    words.forget()
    callers.append(caller := Caller(words))
    await turn()
    assert caller.told == []
    for one in callers:
        one.close()


async def test_words_that_are_still_in_the_device_are_in_time(
    words: FirstWords, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edge.tun.first_words.PATIENCE", 0.0)
    loop = asyncio.get_running_loop()
    caller = Caller(words)
    # A turn goes by until it is read from there.
    loop.call_soon(lambda: loop.call_soon(lambda: caller.sock.send(b"poll")))
    await caller.until(lambda: caller.told)
    assert caller.early == [b"poll"]
    caller.close()


async def test_one_that_speaks_in_time_makes_up_for_those_that_did_not(
    words: FirstWords, monkeypatch: pytest.MonkeyPatch
):
    for _ in range(3):
        for _ in range(SILENT - 1):
            with monkeypatch.context() as patch:
                patch.setattr("edge.tun.first_words.PATIENCE", 0.0)
                caller = Caller(words)
                await caller.until(lambda caller=caller: caller.told)
                caller.close()
        monkeypatch.setattr("edge.tun.first_words.PATIENCE", 1000.0)
        caller = Caller(words)
        caller.sock.send(b"poll")
        await caller.until(lambda caller=caller: caller.told)
        assert caller.early == [b"poll"]
        caller.close()


async def test_a_client_that_says_nothing_more_may_still_hear(words: FirstWords, patient: None):
    caller = Caller(words)
    caller.sock.shutdown(socket.SHUT_WR)
    await caller.until(lambda: caller.told)
    assert caller.early == [b""]
    assert caller.circuit is not None
    assert caller.circuit.ended
    caller.circuit.user.data(b"news")
    assert caller.sock.recv(10) == b"news"
    caller.close()


async def test_who_goes_before_saying_anything_opens_nothing(words: FirstWords, patient: None):
    caller = Caller(words)
    caller.connection.fail(ConnectionResetError())
    await caller.until(lambda: caller.told)
    assert (caller.early, caller.told, len(words.waiting)) == ([], [None], 0)
    caller.close()


async def test_what_was_said_before_it_was_accepted_goes_with_open_at_once(
    words: FirstWords, patient: None
):
    words.silent["plc-b.modbus"] = SILENT
    caller = Caller(words, said=b"poll")
    assert caller.early == [b"poll"]
    assert caller.told == [caller.circuit]
    assert len(words.waiting) == words.silent["plc-b.modbus"] == 0
    circuit = caller.circuit
    assert circuit is not None
    caller.sock.send(b" again")
    await caller.until(lambda: circuit.said)
    assert circuit.said == b" again"
    caller.close()


async def test_who_spoke_before_it_was_accepted_and_is_allowed_no_more_is_cut(
    words: FirstWords, patient: None
):
    caller = Caller(words, refuse=True, said=b"poll")
    assert caller.told == [None]
    await caller.until(lambda: caller.cut)
    await turn()
    assert caller.told == [None], "told once"
    caller.close()


async def test_what_is_allowed_no_more_is_cut(words: FirstWords, patient: None):
    caller = Caller(words, refuse=True)
    caller.sock.send(b"poll")
    await caller.until(lambda: caller.told)
    assert caller.told == [None]
    await caller.until(lambda: caller.cut)
    await turn()
    assert caller.told == [None], "told once"
    caller.close()


async def test_at_the_end_nobody_is_waited_for(words: FirstWords, patient: None):
    callers = [Caller(words) for _ in range(3)]
    words.close()
    for caller in callers:
        await caller.until(lambda caller=caller: caller.cut)
        assert (caller.early, caller.told) == ([], [None])
        caller.close()


# --- behind a device ------------------------------------------------------------------------------------


class Accepted:
    """What the local listener has; it says something when the test calls its receiver."""

    def __init__(self, bench: Bench) -> None:
        flow = next(iter(bench.nat))
        self.peer = (socket.inet_ntop(socket.AF_INET, FAKE), flow.port)
        self.receiver: Any = None
        self.aborted = False
        bench.tcp.accepted(self)  # type: ignore[arg-type]

    def arrived(self, _: int) -> bytes:
        return b""

    def start(self, receiver: Any) -> None:
        self.receiver = receiver

    def abort(self) -> None:
        self.aborted = True

    def say(self, data: bytes) -> None:
        self.receiver.buffer()[: len(data)] = data
        self.receiver.received(len(data))


@pytest.fixture
async def at_once(patient: None):
    bench = Bench(at_once=True)
    yield bench
    await bench.close()


async def test_a_syn_alone_opens_no_circuit_and_is_forgotten(at_once: Bench):
    for port in range(50_000, 50_100):
        at_once.put(segment(2, ports=(port, 502)))
    assert at_once.streams == [], "who sends nothing but SYNs costs no circuit"
    assert len(at_once.taken()) == len(at_once.tcp) == 100
    at_once.time += nat.ACCEPT_WITHIN
    at_once.tcp.sweep()
    assert len(at_once.tcp) == 0
    at_once.time += nat.REST
    at_once.tcp.sweep()
    at_once.time += nat.REST
    at_once.tcp.sweep()
    assert len(at_once.nat) == 0


async def test_a_flow_lives_from_its_syn_to_the_end_of_its_circuit(
    at_once: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tests.unit.edge.tun.test_stack.Stream", Circuit)
    at_once.put(segment(2))
    accepted = Accepted(at_once)
    assert (len(at_once.tcp), at_once.early) == (1, [])
    accepted.say(b"poll")
    assert at_once.early == [b"poll"]
    assert len(at_once.tcp) == 1
    again = Accepted(at_once)
    assert again.aborted, "a flow has one connection"
    at_once.streams.pop().closed.set_result(None)
    await turn()
    assert len(at_once.tcp) == 0


@pytest.mark.parametrize("how", ["lost", "allowed no more", "device"])
async def test_a_flow_without_a_circuit_ends_with_its_connection(at_once: Bench, how: str):
    at_once.put(segment(2))
    accepted = Accepted(at_once)
    if how == "lost":
        accepted.receiver.lost(None)
    elif how == "device":
        at_once.tcp.close()
    else:
        at_once.refuse = True
        accepted.say(b"poll")
    assert accepted.aborted
    assert (len(at_once.tcp), at_once.streams) == (0, [])
