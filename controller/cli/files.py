"""Files that `ferrule` makes: private from the first byte, and whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from controller.cli.failure import Failure, Misuse


@contextmanager
def whole_file(path: str | Path) -> Iterator[IO[bytes]]:
    """A new file, mode 0600, that takes the place of `path` when the body ended well; else `path` stays as it was.

    Raises:
        Misuse: it cannot be made there; the body did not run.
        Failure: it could not be written to its end.
    """
    target = Path(path)
    if target.is_dir():
        raise Misuse(f"cannot write {path}: it is a folder")
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Misuse(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None
    finally:
        fresh.unlink(missing_ok=True)
