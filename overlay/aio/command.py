"""How the three programs are started: their commands, options that a file may replace, and one way to the end."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping
from importlib import import_module
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from overlay.aio.lifecycle import UsageError, run_program
from overlay.aio.logs import FORMATS, setup
from overlay.aio.options import load_config

Run = TypeVar("Run", bound=Callable[..., None])
Settings = dict[str, str]
"""What a program was told, by the long names of its options."""

METRICS = click.option(
    "--metrics", metavar="HOST:PORT", help="Prometheus metrics by HTTP, on loopback only (none)."
)
"""What routers and edges tell by `overlay.aio.status_server`."""

PRIVATE = 0o077
"""No file of a program is for others."""


class Program(click.Group):
    """A program's commands. Called as the program itself, it leaves without taking the interpreter apart: when a
    command has ended all is closed, written and logged; on a loaded machine the rest could cost seconds of the five.
    """

    later = ""
    """A module that adds commands when it is imported, which is put off until one of them is asked for."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """click.Group."""
        found = super().get_command(ctx, cmd_name)
        if found is None and self.later:
            import_module(self.later)
            found = super().get_command(ctx, cmd_name)
        return found

    def list_commands(self, ctx: click.Context) -> list[str]:
        """click.Group: all, for the help."""
        if self.later:
            import_module(self.later)
        return super().list_commands(ctx)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run, and end this process with the exit code."""
        code: object = 0
        try:
            self.main(*args, **kwargs)
        except SystemExit as error:
            code = error.code
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def program(
    name: str, example: str, later: str = ""
) -> Callable[[Callable[..., None]], click.Group]:
    """Make a function the group of a program's commands, with `-h`, `--version` and an example in its help.

    `later` as in `Program`.
    """

    def wrap(about: Callable[..., None]) -> click.Group:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        named = click.version_option(version_of("ferrule"), prog_name=name)(about)
        made = click.group(cls=Program, context_settings=settings, epilog=epilog(example))(named)
        made.later = later
        return made

    return wrap


def command(parent: click.Group, example: str) -> Callable[[Run], click.Command]:
    """Make a function a command of `parent`: it gets `config` and `log_format` besides its own options, all as text."""

    def wrap(run: Run) -> click.Command:
        formats = click.Choice(FORMATS)
        about = "Log for people (text, default) or machines."
        run = click.option("--log-format", type=formats, help=about)(run)
        what = "TOML with these options, by their long names; the command line wins."
        run = click.option("--config", metavar="FILE", help=what)(run)
        return parent.command(epilog=epilog(example))(run)

    return wrap


def epilog(example: str) -> str:
    """The end of a help: an example on a line of its own, to be copied."""
    return f"\b\nExample:\n  {example}"


def settings_of(given: Mapping[str, str | None], needed: Collection[str]) -> Settings:
    """Options from the file that `config` names and from the command line, which wins.

    Args:
        given: every option of the command by the name of its parameter; None where it was not given.
        needed: options that must be said in one of the two places.

    Raises:
        UsageError: the file is not good, or an option is missing.
    """
    options = {key.replace("_", "-"): value for key, value in given.items() if key != "config"}
    config = given.get("config")
    settings = {} if config is None else load_config(Path(config), options)
    settings |= {key: value for key, value in options.items() if value is not None}
    for key in needed:
        if not settings.get(key):
            raise UsageError(f"--{key} is missing.")
    if settings.get("log-format", FORMATS[0]) not in FORMATS:
        raise UsageError(f"log-format must be one of {', '.join(FORMATS)}.")
    return settings


def start(
    given: Mapping[str, str | None],
    needed: Collection[str],
    check: Callable[[Settings], object],
    main: Callable[[Settings, asyncio.Event], Awaitable[None]],
) -> NoReturn:
    """Read the options, run `main(settings, stop)` to its end and leave with its exit code.

    `check` raises UsageError for a setting that cannot be; nothing has happened then.

    Raises:
        click.UsageError: the options are not good.
        SystemExit: always, else.
    """
    try:
        settings = settings_of(given, needed)
        check(settings)
    except UsageError as error:
        raise click.UsageError(str(error)) from None
    os.umask(PRIVATE)
    setup(settings.get("log-format", FORMATS[0]))
    raise SystemExit(run_program(lambda stop: _deaf_at_the_end(main(settings, stop))))


async def _deaf_at_the_end(main: Awaitable[None]) -> None:
    """Once a program has ended its exit code stands: a signal that comes later, when nobody handles it any more,
    would put the death by that signal in its place."""
    try:
        await main
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
