"""A newcomer redeems its token over one `_control` circuit (docs/protocol/README.md, E-03 to E-05)."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from overlay import limits
from overlay.aio.logs import get_logger
from overlay.aio.state import KeptState
from overlay.aio.world import World
from overlay.control.messages import Enrol, Failed, Issued
from overlay.control.stream import encode_message, from_controller
from overlay.errors import Code, DecodeError, FerruleError, TrustError
from overlay.identity.certificate import Role, make_csr
from overlay.identity.enrolment import EXPORTER_LABEL, Token, proof, token_key
from overlay.identity.trust import Credentials, verify_chain
from overlay.wire.bodies import CONTROL_SERVICE

if TYPE_CHECKING:
    from overlay.aio.endpoint import Endpoint
    from overlay.aio.link_driver import LinkDriver

CONTROL_RETRY = 3.0
"""Seconds between two attempts to reach a controller, at most."""
LINK_WAIT = 3.0
"""A router waits so long for the controller to dial it before it tries the routers in its token, too."""
MAX_TOKEN_FILE = 64 * 1024
_ID = 1

_log = get_logger("enrol")


class TokenRefusedError(FerruleError):
    """The controller does not take this token, and will not: the program ends."""


class NotNowError(FerruleError):
    """This attempt failed; another may work."""


async def read_token(world: World, path: Path | None, role: Role) -> Token:
    """The token in a file, for a machine that is not enrolled.

    Raises:
        FerruleError: no file was named, it cannot be read, is no token, or is for another kind of node.
    """
    if path is None:
        raise FerruleError(
            "This machine is not enrolled yet: start it with --token FILE "
            f"(`ferrule token {role.value} NAME --token-out FILE` makes one)."
        )
    try:
        raw = await world.disk.read(path)
    except OSError as error:
        raise FerruleError(f"The token {path} cannot be read: {error.strerror or error}.") from None
    if raw is None:
        raise FerruleError(f"There is no token file {path}.")
    try:
        token = Token.parse(raw[:MAX_TOKEN_FILE].decode("ascii"))
    except (DecodeError, UnicodeDecodeError) as error:
        reason = str(error) if isinstance(error, DecodeError) else "it is not text"
        raise FerruleError(f"{path} holds no token that can be used: {reason}.") from None
    if token.role is not role:
        raise FerruleError(
            f"The token is for {token.role.value} {token.name}: use it with ferrule-{token.role.value}."
        )
    return token


class Enrolment:
    """Tries to enrol until it is done, or the token is refused. `now` is the time for certificates."""

    def __init__(
        self,
        world: World,
        state: KeptState,
        endpoint: "Endpoint",
        token: Token,
        newcomer: Credentials,
        now: Callable[[], int],
    ) -> None:
        self._world = world
        self._state = state
        self._endpoint = endpoint
        self._token = token
        self._newcomer = newcomer
        self._now = now

    async def run(
        self,
        links: "Callable[[float], Awaitable[list[LinkDriver]]]",
        dial: Callable[[], None] | None,
    ) -> None:
        """Enrol and keep the identity.

        `links` waits for that many seconds at most for links to enrol over, and gives them; `dial` begins to dial the
        routers of the token, where there are any.

        Raises:
            TokenRefusedError: the controller refuses the token for good.
        """
        token = self._token
        _log.info("enrol.begin", name=token.name, routers=", ".join(token.routers))
        pause, told = limits.RECONNECT_MIN, ""
        while True:
            over = await links(LINK_WAIT)
            if over:
                try:
                    await self._once(over)
                    return
                except TokenRefusedError:
                    raise
                except (FerruleError, OSError) as error:
                    why = str(error) or type(error).__name__
                await asyncio.sleep(pause * (0.5 + self._world.entropy.uniform() / 2))
                pause = min(2 * pause, CONTROL_RETRY)
            else:
                why = "no router and no controller is reached yet"
                if dial is not None:
                    dial()
            if why != told:
                told = why
                _log.warning("enrol.again", reason=why)

    async def _once(self, links: "list[LinkDriver]") -> None:
        chain = await redeem(self._endpoint, links, self._token, self._newcomer, self._now())
        leaf = await self._state.enrol(self._newcomer, chain)
        _log.info("enrol.done", name=leaf.identity.name, plant=leaf.identity.plant)


async def redeem(
    endpoint: "Endpoint",
    links: "Sequence[LinkDriver]",
    token: Token,
    newcomer: Credentials,
    now: int,
) -> tuple[bytes, ...]:
    """Enrol over the given links; the chain that was issued (leaf first).

    Repeating it with the same key and token is harmless until the node's first authenticated link (E-05).

    Raises:
        TokenRefusedError: the controller refuses the token for good.
        NotNowError: no controller was reached, or it could not answer.
    """
    try:
        async with asyncio.timeout(limits.ENROL_SECONDS):
            stream = await endpoint.dial(CONTROL_SERVICE, enrol=True, links=links)
            try:
                peer = stream.peer
                if peer is None or peer.identity.role is not Role.CONTROLLER:
                    raise NotNowError("who answered is not a controller of the plant")
                csr = make_csr(newcomer.key)
                exporter = stream.exporter(EXPORTER_LABEL)
                signed = proof(token_key(token.secret), token.role, exporter, csr)
                await stream.write(encode_message(Enrol(_ID, token.id, csr, signed)))
                answer = await _answer(stream.read)
            finally:
                stream.abort(Code.NORMAL, "enrolled")
    except TimeoutError:
        raise NotNowError("the controller did not answer in time") from None
    except (OSError, DecodeError) as error:
        raise NotNowError(str(error) or "the connection was lost") from None
    if isinstance(answer, Failed):
        if answer.code in {Code.NOT_TRUSTED, Code.REVOKED}:
            raise TokenRefusedError(
                f"The controller refuses the token: {answer.reason or 'it is not valid'}. Make a fresh one: "
                f"`ferrule token {token.role.value} {token.name} --token-out FILE`."
            )
        raise NotNowError(answer.reason or Code(answer.code).name)
    _check(answer, token, newcomer, now)
    return answer.chain


def _check(answer: Issued, token: Token, newcomer: Credentials, now: int) -> None:
    try:
        leaf = verify_chain(answer.chain, newcomer.anchor, now)
    except TrustError as error:
        raise NotNowError(f"the certificate that came does not hold: {error}") from None
    if leaf.public != newcomer.key.public or leaf.identity[1:] != (token.role, token.name):
        raise NotNowError(f"the certificate that came is {leaf.identity.uri}, not this machine's")


async def _answer(read: Callable[[], Awaitable[bytes]]) -> Issued | Failed:
    reader = from_controller()
    while True:
        data = await read()
        if not data:
            raise ConnectionResetError("the controller closed the circuit")
        for message in reader.feed(data):
            if isinstance(message, Issued | Failed) and message.id == _ID:
                return message
