"""The edge's own control socket in DIR: one line of JSON asks, one line of JSON answers; nobody but the owner
reaches it.

The path of a Unix socket has at most 107 bytes; a longer one is reached through the folder's descriptor.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from overlay.aio.tasks import spawn
from overlay.errors import FerruleError

SOCKET = "control.sock"
REQUEST = 4096
"""Bytes of a request."""
ANSWER = 1024 * 1024
SECONDS = 10.0
AT_ONCE = 16
_LONGEST = 100

Answer = dict[str, Any]
Handler = Callable[[str, str], Awaitable[Answer]]
"""(command, reason) to answer. Raises: FerruleError: refused, with a sentence."""


class NotRunningError(FerruleError):
    """Nobody listens on the control socket."""


class LocalControl:
    """Serves the socket."""

    def __init__(self, directory: Path, handler: Handler) -> None:
        self._directory = directory
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._busy = 0
        self._commands: set[asyncio.Task[Answer]] = set()
        self._closing = False

    async def start(self) -> None:
        """Begin to listen; what a crashed program left there is replaced (DIR is locked).

        Raises:
            OSError: the socket cannot be made.
        """
        with contextlib.suppress(FileNotFoundError):
            (self._directory / SOCKET).unlink()
        with _short(self._directory) as path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.bind(path)
                os.chmod(path, 0o600)
            except OSError:
                sock.close()
                raise
        self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=REQUEST)

    async def close(self) -> None:
        """Take the socket away, and return when commands under way are done: what a switch did belongs in the audit."""
        self._closing = True
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(FileNotFoundError):
                (self._directory / SOCKET).unlink()
        if self._commands:
            await asyncio.wait(self._commands, timeout=SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._busy += 1
        try:
            if self._busy > AT_ONCE:
                answer: Answer = {"error": "too many commands at once"}
            else:
                async with asyncio.timeout(SECONDS):
                    answer = await self._answer(await reader.readline())
            writer.write(json.dumps(answer).encode() + b"\n")
            async with asyncio.timeout(SECONDS):
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass  # whoever asked is gone, or sent no line
        finally:
            self._busy -= 1
            writer.close()

    async def _answer(self, line: bytes) -> Answer:
        try:
            request = json.loads(line)
            command, reason = request["command"], request.get("reason", "")
            if not isinstance(command, str) or not isinstance(reason, str):
                raise TypeError
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {"error": "not a command"}
        if self._closing:
            return {"error": "this edge is stopping"}
        try:
            # Shielded: a switch that is being pulled is not left half pulled because nobody waits for the answer.
            task = spawn(_safely(self._handler, command, reason), command)
            self._commands.add(task)
            task.add_done_callback(self._commands.discard)
            return await asyncio.shield(task)
        except FerruleError as error:
            return {"error": str(error)}


async def _safely(handler: Handler, command: str, reason: str) -> Answer:
    try:
        return await handler(command, reason)
    except FerruleError as error:
        return {"error": str(error)}


async def ask(directory: Path, command: str, reason: str = "") -> Answer:
    """What the running edge answers.

    Raises:
        NotRunningError: no edge runs in this folder.
        FerruleError: it refused, or did not answer.
    """
    try:
        async with asyncio.timeout(SECONDS):
            with _short(directory) as path:
                reader, writer = await asyncio.open_unix_connection(path, limit=ANSWER)
            try:
                writer.write(json.dumps({"command": command, "reason": reason}).encode() + b"\n")
                answer: Answer = json.loads(await reader.readline())
            finally:
                writer.close()
    except (FileNotFoundError, ConnectionRefusedError):
        why = "" if directory.is_dir() else ": there is no such folder"  # noqa: ASYNC240 - a command
        raise NotRunningError(f"No edge is running in {directory}{why}.") from None
    except PermissionError:
        raise FerruleError(
            f"The edge in {directory} belongs to another user; run this command as that user."
        ) from None
    except (OSError, TimeoutError, ValueError):
        raise FerruleError(f"The edge in {directory} does not answer.") from None
    if "error" in answer:
        raise FerruleError(str(answer["error"]))
    return answer


@contextlib.contextmanager
def _short(directory: Path) -> Iterator[str]:
    """A path to the socket that fits into a socket address."""
    path = str(directory / SOCKET)
    if len(os.fsencode(path)) <= _LONGEST:
        yield path
        return
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
