"""What `ferrule` keeps between calls: address, bearer token, the certificate it trusts, and the plant's root.

One JSON file, mode 0600, in `$FERRULE_HOME` (default: the user's configuration folder). `FERRULE_URL` and
`FERRULE_TOKEN` win over it, so that scripts need no login; `FERRULE_CA` names the certificate to trust for them.
"""

import json
import os
import stat
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from controller.cli.failure import Failure, Misuse
from controller.cli.files import whole_file

FILE = "session.json"
DEFAULT_PORT = 8440


@dataclass(frozen=True)
class Session:
    """A login. `ca` is PEM text ("": the system's own trust store), `root` the plant's root certificate as PEM text."""

    url: str
    token: str
    ca: str = ""
    user: str = ""
    plant: str = ""
    root: str = ""


def folder() -> Path:
    """Where the session file lives."""
    if home := os.environ.get("FERRULE_HOME"):
        return Path(home)
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "ferrule"


def check_url(url: str) -> str:
    """The address without what does not belong into it.

    Raises:
        Misuse: it is not `https://HOST[:PORT]`.
    """
    text = url.strip().rstrip("/")
    parts = urlsplit(text)
    try:
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:
        port = 0
    plain = not (parts.path or parts.query or parts.fragment or parts.username)
    if parts.scheme != "https" or not parts.hostname or not plain or not port:
        raise Misuse(f"{url!r} is no controller's address: write https://HOST:PORT")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"https://{host}:{port}"


def read_pem(path: str) -> str:
    """A certificate file's text.

    Raises:
        Misuse: there is no certificate in it.
    """
    try:
        text = Path(path).read_text("ascii")
    except OSError as error:
        raise Misuse(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise Misuse(f"{path} holds no certificate in PEM form")
    return text


def kept() -> Session | None:
    """The session on disk, None when there is none.

    Raises:
        Failure: others can read it, or it is damaged.
    """
    path = folder() / FILE
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        raw = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Failure(f"{path} is damaged: log in again with `ferrule login`") from None
    if mode & 0o077:
        raise Failure(f"{path} can be read by others: chmod 600 {path}, then log in again")
    known = {field.name for field in fields(Session)}
    try:
        values = json.loads(raw)
        session = Session(**{key: str(values[key]) for key in values if key in known})
    except (ValueError, TypeError, AttributeError):
        raise Failure(f"{path} is damaged: log in again with `ferrule login`") from None
    return session


def current() -> Session:
    """The session to use now: the environment's, or else the one on disk.

    Raises:
        Failure: there is none.
    """
    url, token = os.environ.get("FERRULE_URL"), os.environ.get("FERRULE_TOKEN")
    ca = os.environ.get("FERRULE_CA")
    session = None if url and token and ca else kept()
    if url:
        url = check_url(url)
        if session is not None and session.url != url and not token:
            raise Failure(f"no login for {url}: run `ferrule login {url} --user NAME`")
    if session is None:
        if not (url and token):
            raise Failure("not logged in: run `ferrule login https://HOST:PORT --user NAME`")
        session = Session(url, token)
    trusted = read_pem(ca) if ca else session.ca
    if url and url != session.url and not ca:
        trusted = ""  # what was pinned for one controller says nothing about another
    return Session(
        url or session.url,
        token or session.token,
        trusted,
        session.user,
        session.plant,
        session.root,
    )


def keep(session: Session) -> Path:
    """Write the session so that nobody else can read it, at no moment.

    Raises:
        Failure: the folder cannot be written.
    """
    path = folder() / FILE
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(json.dumps(asdict(session), indent=1).encode())
    except (OSError, Misuse) as error:
        reason = error.strerror if isinstance(error, OSError) else error.message
        raise Failure(f"cannot keep the login in {path.parent}: {reason}") from None
    return path


def forget() -> None:
    """Remove the session file."""
    try:
        (folder() / FILE).unlink(missing_ok=True)
    except OSError as error:
        raise Failure(f"cannot remove {folder() / FILE}: {error.strerror}") from None
