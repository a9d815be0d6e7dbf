"""A PostgreSQL server of its own for tests, on loopback, in a folder that goes away."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.needs import missing

OWNER = "postgres"


def programs() -> Path:
    """The folder with the server's programs, of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    anywhere = shutil.which("initdb")
    if anywhere is None:
        missing("This test needs a PostgreSQL server: as root, run `apt-get install postgresql`.")
    return Path(anywhere).parent


@dataclass
class Server:
    """A running server."""

    folder: Path
    port: int
    user: str | None
    databases: int = 0

    def run(self, program: str, *arguments: str) -> None:
        """One of the server's programs, as the user that it wants: it refuses to run as root."""
        made = subprocess.run(
            [str(programs() / program), *arguments],
            user=self.user,
            cwd=self.folder,
            env={"PATH": os.defpath, "HOME": str(self.folder), "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert made.returncode == 0, f"{program}: {made.stderr or made.stdout}"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        data, log = str(self.folder / "data"), str(self.folder / "log")
        self.run("pg_ctl", "start", "-w", "-D", data, "-l", log, "-o", options)

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self.folder / "data"))

    def database(self) -> str:
        """The URL of a new, empty database."""
        self.databases += 1
        name = f"test{self.databases}"
        self.run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "ferrule", name)
        return f"postgresql://ferrule@127.0.0.1:{self.port}/{name}"


@contextmanager
def server() -> Iterator[Server]:
    """A server that was just made."""
    programs()
    user = OWNER if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    try:
        if user is not None:
            shutil.chown(folder, user, pwd.getpwnam(user).pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        running = Server(folder, port, user)
        running.run("initdb", "-D", str(folder / "data"), "-U", "ferrule", "-A", "trust", "-N")
        running.start()
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
