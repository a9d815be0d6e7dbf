"""Options of programs: configuration files and addresses, with one clear sentence for what does not fit."""

import tomllib
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from overlay.addresses import parse_address
from overlay.aio.lifecycle import UsageError, describe
from overlay.errors import FerruleError


def load_config(path: Path, known: Collection[str]) -> dict[str, str]:
    """The options in a TOML file; keys are long option names, values text.

    Raises:
        UsageError: the file cannot be read, is not TOML, or holds what no option is called.
    """
    try:
        with path.open("rb") as file:
            loaded = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"The configuration {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The configuration {path} is not TOML: {error}.") from None
    for key, value in loaded.items():
        if key not in known:
            listed = ", ".join(sorted(known))
            raise UsageError(f"{path}: there is no option {key!r}; there are {listed}.")
        if not isinstance(value, str):
            raise UsageError(f"{path}: {key} must be text in quotes.")
    return loaded


def parse_listen(text: str, option: str) -> tuple[str, int]:
    """HOST:PORT to listen on; port 0 lets the system choose; `[IPv6]:PORT`.

    Raises:
        UsageError: not of this form.
    """
    address = parse_address(text, lowest=0)
    if address is None:
        raise UsageError(f"{option} must be HOST:PORT, for example 0.0.0.0:8441, not {text!r}.")
    return address


async def listen_at(
    listen: Callable[[str, int], Awaitable[object]], text: str, option: str
) -> None:
    """Listen where an option says.

    Raises:
        FerruleError: it cannot be; one sentence says why.
    """
    host, port = parse_listen(text, option)
    try:
        await listen(host, port)
    except OSError as error:
        raise FerruleError(f"{option} {text} cannot be used: {describe(error)}") from None
