"""Options of programs: configuration files and addresses, with one clear sentence for what does not fit."""

import tomllib
from collections.abc import Collection
from pathlib import Path

from overlay.addresses import parse_address
from overlay.aio.lifecycle import UsageError


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
