"""Messages in the byte stream of a `_control` circuit (docs/protocol/control.md, K-01). Pure."""

import struct
from typing import Generic, TypeVar, get_args

import msgspec

from overlay import limits
from overlay.control.messages import ControllerMessage, NodeMessage
from overlay.errors import DecodeError, LimitError
from overlay.wire.codec import encode

_LENGTH = struct.Struct("!I")
T = TypeVar("T")
_BAD = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError)


class _Tagged(msgspec.Struct, array_like=True, frozen=True):
    """The start of any message, of this version or a later one."""

    tag: int


_KNOWN_TAGS = frozenset(
    kind.__struct_config__.tag for kind in (*get_args(NodeMessage), *get_args(ControllerMessage))
)
_tagged = msgspec.msgpack.Decoder(_Tagged)
_from_node = msgspec.msgpack.Decoder(NodeMessage)
_from_controller = msgspec.msgpack.Decoder(ControllerMessage)


def encode_message(message: NodeMessage | ControllerMessage) -> bytes:
    """Length and MessagePack of one message, as the stream carries it.

    Raises:
        LimitError: the message is longer than `CONTROL_MESSAGE`; the caller has to split it.
    """
    body = encode(message)
    if len(body) > limits.CONTROL_MESSAGE:
        raise LimitError(
            f"a control message of {len(body)} bytes is above the limit of {limits.CONTROL_MESSAGE}"
        )
    return _LENGTH.pack(len(body)) + body


class MessageReader(Generic[T]):
    """Cuts a stream into messages. Holds at most one message of `limit` bytes and what came after it in one `feed`.

    A message with a tag that this version does not know is skipped and counted in `unknown` (P-10). After an error the
    reader is dead: the control circuit ends (K-07).
    """

    def __init__(self, decoder: "msgspec.msgpack.Decoder[T]", limit: int) -> None:
        self._decoder = decoder
        self._limit = limit
        self._held = bytearray()
        self._dead = False
        self.unknown = 0

    def feed(self, data: bytes | bytearray | memoryview) -> list[T]:
        """Take bytes; return the messages that they complete, in order.

        Raises:
            DecodeError: a length of zero or above the limit, or a message that is not one of its types.
        """
        if self._dead:
            raise DecodeError("the control stream was damaged before")
        self._held += data
        messages: list[T] = []
        start = 0
        try:
            while len(self._held) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._held, start)
                if not 0 < length <= self._limit:
                    raise DecodeError(
                        f"a control message of {length} bytes; 1 to {self._limit} are allowed"
                    )
                end = start + _LENGTH.size + length
                if len(self._held) < end:
                    break
                message = self._decode(bytes(self._held[start + _LENGTH.size : end]))
                if message is not None:
                    messages.append(message)
                start = end
        except DecodeError:
            self._dead = True
            self._held.clear()
            raise
        del self._held[:start]
        return messages

    def _decode(self, body: bytes) -> T | None:
        try:
            return self._decoder.decode(body)
        except _BAD as error:
            if _is_of_a_later_version(body):
                self.unknown += 1
                return None
            raise DecodeError(f"not a valid control message: {error}") from None


def _is_of_a_later_version(body: bytes) -> bool:
    try:
        return _tagged.decode(body).tag not in _KNOWN_TAGS
    except _BAD:
        return False


def from_node(*, newcomer: bool = False) -> "MessageReader[NodeMessage]":
    """What the controller reads; a newcomer may send no more than `ENROL_BYTES` (E-03)."""
    return MessageReader(_from_node, limits.ENROL_BYTES if newcomer else limits.CONTROL_MESSAGE)


def from_controller() -> "MessageReader[ControllerMessage]":
    """What a node reads."""
    return MessageReader(_from_controller, limits.CONTROL_MESSAGE)
