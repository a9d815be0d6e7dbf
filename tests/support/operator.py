"""The operator's command without the start of an interpreter for each: `python -m tests.support.operator`, with a socket
as its standard input, has loaded what `ferrule` needs and forks for each command that it is sent.

What runs is the command's own `main`, in a process of its own, with its own arguments, environment, folder and output.
Loading is two thirds of what a command takes of a processor, and the system tests give many hundreds.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO

from controller.cli.main import main

LARGEST = 1 << 17
"""Bytes of one command with its environment."""


class Operator:
    """Starts the program behind `prefix`; commands may be given by several threads at once."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "tests.support.operator"], stdin=its.fileno()
            )

    def call(
        self, words: Sequence[str], environment: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `ferrule` with these words to its end; what came of it is what `subprocess.run` says.

        Raises:
            subprocess.TimeoutExpired: it did not end in time, and was killed.
        """
        asked = {"words": list(words), "environment": environment, "folder": os.getcwd()}
        mine, its = socket.socketpair()
        with (
            mine,
            open(os.memfd_create("out"), "rb") as out,
            open(os.memfd_create("err"), "rb") as err,
        ):
            with its:
                given = [its.fileno(), out.fileno(), err.fileno()]
                socket.send_fds(self._socket, [json.dumps(asked).encode()], given)
            mine.settimeout(timeout)
            pid = int.from_bytes(mine.recv(4), "big")
            try:
                code = mine.recv(1)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(["ferrule", *words], timeout) from None
            assert code, (words, _text(err))
            return subprocess.CompletedProcess(["ferrule", *words], code[0], _text(out), _text(err))

    def close(self) -> None:
        """End the program; commands that still run go on."""
        self._socket.close()
        self._process.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def serve(requests: socket.socket) -> None:
    """Until whoever asks is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that were forked
    while True:
        data, given, _, _ = socket.recv_fds(requests, LARGEST, 3)
        if not data:
            return
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os._exit(_do(json.loads(data), *given))
        for one in given:
            os.close(one)


def _do(asked: dict[str, object], answer: int, out: int, err: int) -> int:
    """As the command of that name does it; its exit code."""
    words, environment = asked["words"], asked["environment"]
    assert isinstance(words, list)
    assert isinstance(environment, dict)
    with socket.socket(fileno=answer) as told:
        told.sendall(os.getpid().to_bytes(4, "big"))
        for number, one in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
            os.dup2(one, number)
            os.close(one)
        os.chdir(str(asked["folder"]))
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()
        sys.argv = ["ferrule", *words]
        code: object = 0
        try:
            main()
        except SystemExit as error:
            code = error.code
        sys.stdout.flush()
        sys.stderr.flush()
        number = code if isinstance(code, int) else int(code is not None)
        told.sendall(bytes([number]))
        return number


if __name__ == "__main__":
    serve(socket.socket(fileno=os.dup(sys.stdin.fileno())))
