"""Both ends of one circuit as pure cores, and the two wires between them, without links, handshakes or sockets."""

from collections import deque
from typing import Any

from overlay.circuit.circuit import Circuit
from overlay.circuit.controls import Names
from overlay.circuit.events import Arrived, Delivered, HalfClosed, Over
from overlay.circuit.frames import Frame
from overlay.circuit.signatures import Signing, Verifying
from overlay.crypto.checkpoint import CALLER, HOST
from overlay.crypto.circuit_keys import CircuitKeys
from overlay.errors import ProtocolError, TamperError
from overlay.identity.keys import SigningKey
from overlay.wire.bodies import DATAGRAMS, Resume, ResumeIntent
from overlay.wire.codec import decode, encode
from overlay.wire.header import Header, Kind

PLANT = b"p" * 32
KEYS = {CALLER: SigningKey.generate(b"c" * 32), HOST: SigningKey.generate(b"h" * 32)}


class End:
    """One core, what its application got, and the wire on which its frames leave."""

    def __init__(self, pair: "Pair", role: int, *, integrity: int, transport: int) -> None:
        self.pair = pair
        self.role = role
        names = Names(b"i" * 16, b"a" * 16, 1, "edge-b", "plc-b.modbus", integrity, transport)
        keys = CircuitKeys.derive(
            b"s" * 32,
            b"1" * 32,
            b"2" * 32,
            b"3" * 32,
            caller=role == CALLER,
            datagrams=transport == DATAGRAMS,
        )
        other = HOST if role == CALLER else CALLER
        self.core: Any = Circuit(
            names, role, keys,
            Signing(KEYS[role], PLANT, names.circuit, role),
            Verifying(KEYS[other].public, PLANT, names.circuit, other),
        )  # fmt: skip
        self.wire: deque[tuple[Header, bytes]] = deque()
        self.got = bytearray()
        self.datagrams: list[bytes] = []
        self.sent = bytearray()
        self.unread = 0
        self.half_closed = False
        self.end: Any = None
        self.faults: list[Exception] = []

    @property
    def other(self) -> "End":
        return self.pair.host if self.role == CALLER else self.pair.caller

    def take(self) -> None:
        """Frames onto the wire; without a path they go nowhere."""
        for frame in self.core.take():
            self._put(frame)

    def _put(self, frame: Frame) -> None:
        if self.pair.path:
            header = Header(frame.kind, frame.flags, len(frame.payload), 0, frame.sequence)
            self.wire.append((header, bytes(frame.payload)))

    def send_datagram(self, data: bytes) -> bool:
        """Onto the wire; False: the core dropped it."""
        frame = self.core.send_datagram(data)
        if frame is not None:
            self._put(frame)
        return frame is not None

    def handle(self, events) -> None:
        for event in events:
            if isinstance(event, Delivered):
                assert self.end is None, "delivered after the end"
                self.got += event.data
                self.unread += len(event.data)
            elif isinstance(event, Arrived):
                self.datagrams.append(event.data)
            elif isinstance(event, HalfClosed):
                self.half_closed = True
            elif isinstance(event, Over):
                assert self.end is None, "ended twice"
                self.end = event
        self.take()

    def send(self, data: bytes) -> bool:
        """As much as there is room for, in one frame."""
        data = data[: self.core.room()]
        if not data:
            return False
        self.core.send(data, self.pair.now)
        self.sent += data
        self.take()
        return True

    def read(self, count: int) -> None:
        count = min(count, self.unread)
        self.unread -= count
        if count and self.end is None:
            self.core.consumed(count, self.pair.now)
            self.take()

    def arrive(self, header: Header, payload: bytes) -> None:
        """A frame comes in."""
        try:
            events = self.core.receive(header, memoryview(payload), self.pair.now)
        except (TamperError, ProtocolError) as error:
            self.faults.append(error)
            events = self.core.fail(error, self.pair.now)
        self.handle(events)

    def tick(self) -> None:
        due = self.core.deadline()
        if due is not None and due <= self.pair.now:
            self.handle(self.core.tick(self.pair.now))


class Pair:
    """Caller and host; READY was said and heard."""

    def __init__(self, *, integrity: int = 0, transport: int = 0, opened: bool = True) -> None:
        self.now = 0.0
        self.path = True
        self.caller = End(self, CALLER, integrity=integrity, transport=transport)
        self.host = End(self, HOST, integrity=integrity, transport=transport)
        if opened:
            self.host.core.ready(1)
            self.host.take()
            self.settle()

    @property
    def ends(self) -> tuple[End, End]:
        return self.caller, self.host

    def deliver(self, sender: End, count: int = 1) -> None:
        """The next frames of one direction arrive."""
        for _ in range(count):
            if sender.wire:
                sender.other.arrive(*sender.wire.popleft())

    def settle(self, reading: bool = True) -> None:
        """Until nothing is on the wires any more."""
        while any(end.wire for end in self.ends):
            for end in self.ends:
                self.deliver(end, len(end.wire))
                if reading:
                    end.other.read(1 << 30)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for end in self.ends:
            end.tick()

    def cut(self) -> None:
        """The path is lost, with all that is on it."""
        self.path = False
        for end in self.ends:
            end.wire.clear()
            end.core.take()
            end.handle(end.core.path_lost(self.now))

    def intent(self) -> bytes:
        names = self.caller.core.names
        return encode(
            ResumeIntent(
                names.circuit, names.association, names.number, names.host, names.service, b""
            )
        )

    def ask_to_resume(self) -> tuple[Header, bytes]:
        """The caller's RESUME for a new hop."""
        frame = self.caller.core.resume(self.intent(), (), ())
        return Header(Kind.RESUME, 0, len(frame.payload), 0, frame.sequence), bytes(frame.payload)

    def resume(self) -> None:
        """RESUME arrives on a new hop; its answer and all after it are on the wire."""
        header, payload = self.ask_to_resume()
        self.path = True
        self.host.handle(self.host.core.resumed(header, decode(Resume, payload), self.now))
