"""The command line's HTTP client: the standard library over TLS, trusting exactly what the session pins.

No third-party client: `ferrule` must start in a fraction of a second. Answers and lines are bounded, and every
way to fail becomes one sentence.
"""

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from controller.cli.failure import Failure, Misuse
from controller.cli.home import Session

PREFIX = "/api/v1"
CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 60.0
QUIET_SECONDS = 35.0
"""A stream has a heartbeat every 10 s."""
MAX_ANSWER = 256 * 1024 * 1024
MAX_LINE = 4 * 1024 * 1024
PIECE = 64 * 1024

Json = Any
"""What a JSON document decodes to; the API's document says which shape each route has."""

# Problem codes that mean "asked wrongly" (exit 2) and not "refused" (exit 1).
_MISUSE = frozenset({"bad-request", "invalid", "not-available"})


class Lost(Failure):
    """The connection failed or ended in the middle; a follower may try again."""


class NotListening(Lost):
    """The machine is there, and nothing listens at that port: perhaps the controller is just starting."""


def context(ca: str) -> ssl.SSLContext:
    """Trust `ca` (PEM) and nothing else; with "" the system's own store.

    Raises:
        Failure: `ca` is no certificate.
    """
    try:
        made = ssl.create_default_context(cadata=ca or None)
    except (ssl.SSLError, ValueError):
        raise Failure("the certificate to trust is damaged: log in again with --ca") from None
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return made


class Client:
    """One controller. Every call opens one connection: commands are short and must not hang on an old one."""

    def __init__(self, session: Session) -> None:
        self.session = session
        parts = urlsplit(session.url)
        self._host = parts.hostname or ""
        self._port = parts.port or 443
        self._tls = context(session.ca)

    def get(self, *path: str, seconds: float = ANSWER_SECONDS, **query: object) -> Json:
        """Ask for something; parameters that are None are left out."""
        return self._call("GET", path, query, None, seconds)

    def post(self, *path: str, body: Mapping[str, object] | None = None) -> Json:
        """Make or do something."""
        return self._call("POST", path, {}, body, ANSWER_SECONDS)

    def patch(self, *path: str, body: Mapping[str, object]) -> Json:
        """Change something."""
        return self._call("PATCH", path, {}, body, ANSWER_SECONDS)

    def delete(self, *path: str) -> Json:
        """Remove something."""
        return self._call("DELETE", path, {}, None, ANSWER_SECONDS)

    def lines(
        self, *path: str, seconds: float = ANSWER_SECONDS, **query: object
    ) -> Iterator[bytes]:
        """The lines of a stream as they come, without the empty ones that keep it alive.

        Raises:
            Lost: it ended early or nothing came for `seconds`.
        """
        with self._exchange("GET", path, query, None, seconds) as answer:
            if answer.status != http.client.OK:
                self._refuse(answer.status, self._read(answer))
            if not answer.chunked:
                raise Failure(f"{self.session.url} does not answer like a Ferrule controller")
            rest = b""
            # Not `readline`: that takes a connection cut between two chunks for the end of the stream.
            while piece := answer.read1(PIECE):
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > MAX_LINE:
                    raise Failure("the controller's answer has a line that is too long to take")
                yield from (line + b"\n" for line in lines if line)
            if rest:
                raise Lost("the controller's answer was cut off")

    def follow(self, *path: str, **query: object) -> Iterator[Json]:
        """The items of an endless stream.

        Raises:
            Lost: it ended, or its heartbeat stopped.
        """
        for line in self.lines(*path, seconds=QUIET_SECONDS, **query):
            try:
                yield json.loads(line)
            except ValueError:
                raise Failure(f"{self.session.url} does not answer like a controller") from None

    def _call(
        self,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, object],
        body: Mapping[str, object] | None,
        seconds: float,
    ) -> Json:
        with self._exchange(method, path, query, body, seconds) as answer:
            raw = self._read(answer)
        if answer.status >= http.client.BAD_REQUEST:
            self._refuse(answer.status, raw)
        if not raw:
            return None
        try:
            return json.loads(raw)
        except ValueError:
            raise Failure(f"{self.session.url} does not answer like a Ferrule controller") from None

    @contextmanager
    def _exchange(
        self,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, object],
        body: Mapping[str, object] | None,
        seconds: float,
    ) -> Iterator[http.client.HTTPResponse]:
        """One request and the beginning of its answer; the body reads the rest, and then everything is closed.

        Raises:
            Lost: whatever happened to the connection meanwhile, also in the body.
        """
        connection = self._connect(seconds)
        answer: http.client.HTTPResponse | None = None
        try:
            answer = self._send(connection, method, path, query, body)
            yield answer
        except TimeoutError:
            raise Lost(f"the controller did not answer within {seconds:.0f} s") from None
        except (OSError, http.client.HTTPException):
            raise Lost("the connection to the controller was lost") from None
        finally:
            connection.close()
            if answer is not None:
                answer.close()  # it holds the socket, once the connection has handed it over

    def _connect(self, seconds: float) -> http.client.HTTPSConnection:
        connection = http.client.HTTPSConnection(
            self._host, self._port, timeout=CONNECT_SECONDS, context=self._tls
        )
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            raise Failure(
                f"{self.session.url} shows a certificate that is not trusted ({error.verify_message}):"
                " log in with --ca FILE, the api-ca.pem in the controller's folder"
            ) from None
        except ssl.SSLError:
            raise Lost(f"{self.session.url} does not speak TLS 1.3 as a controller does") from None
        except ConnectionRefusedError:
            raise NotListening(
                f"connection refused: nothing listens at {self.session.url}, is the controller running?"
            ) from None
        except TimeoutError:
            raise Lost(f"no answer from {self.session.url}: is the controller reachable?") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise Lost(f"cannot reach {self.session.url}: {reason}") from None
        connection.sock.settimeout(seconds)
        return connection

    def _send(
        self,
        connection: http.client.HTTPSConnection,
        method: str,
        path: tuple[str, ...],
        query: Mapping[str, object],
        body: Mapping[str, object] | None,
    ) -> http.client.HTTPResponse:
        target = PREFIX + "".join(f"/{quote(part, safe='')}" for part in path)
        given = {key: _text(value) for key, value in query.items() if value is not None}
        if given:
            target += f"?{urlencode(given)}"
        headers = {"Accept": "application/json", "Connection": "close"}
        if self.session.token:
            headers["Authorization"] = f"Bearer {self.session.token}"
        raw = None
        if body is not None:
            given_body = {key: value for key, value in body.items() if value is not None}
            raw = json.dumps(given_body).encode()
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, target, raw, headers)
        except (
            ValueError
        ):  # what the standard library says of a token or name that is no header text
            raise Misuse("the session's token holds signs that no token has") from None
        return connection.getresponse()

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        raw = answer.read(MAX_ANSWER + 1)
        if len(raw) > MAX_ANSWER:
            raise Failure("the controller's answer is too large to take")
        return raw

    def _refuse(self, status: int, raw: bytes) -> NoReturn:
        """Raise what a problem document says."""
        try:
            problem = json.loads(raw)
            code, detail = str(problem["code"]), str(problem["detail"])
        except (ValueError, TypeError, KeyError):
            raise Failure(
                f"{self.session.url} answered {status} and not like a Ferrule controller"
            ) from None
        if code in _MISUSE:
            raise Misuse(detail)
        if code == "not-logged-in":
            detail += f": run `ferrule login {self.session.url} --user NAME`"
        raise Failure(detail)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
