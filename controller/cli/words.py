"""How commands are written: an example in every help, `--json` everywhere, and a clear no to what comes later."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from controller.cli.client import Client
from controller.cli.failure import not_yet
from controller.cli.home import current

Run = TypeVar("Run", bound=Callable[..., Any])
FEW = 10
"""Groups with fewer commands name them all to who has got one wrong."""
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Group(click.Group):
    """A group of commands; `later` are words of the contract that this build does not have."""

    def __init__(self, *args: Any, later: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.later = frozenset(later)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say "not yet" where click would say "no such command", and what there is instead of a wrong one."""
        if args[0] in self.later:
            raise not_yet(f"`{ctx.command_path} {args[0]}`")
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if len(self.commands) >= FEW:
                raise
            known = ", ".join(sorted(self.commands))
            raise click.UsageError(f"{error.format_message()} There are {known}.", ctx) from None


def group(name: str, about: str, example: str, *, later: Sequence[str] = ()) -> Group:
    """A group with an example in its help."""
    return Group(
        name,
        help=about,
        epilog=_example(example),
        later=later,
        context_settings=SETTINGS,
        no_args_is_help=True,
    )


def command(parent: click.Group, name: str, example: str) -> Callable[[Run], click.Command]:
    """Make a function a command of `parent`; it gets `as_json` besides its own options."""

    def wrap(run: Run) -> click.Command:
        run = click.option("--json", "as_json", is_flag=True, help="One JSON document.")(run)
        make = parent.command(name, epilog=_example(example), context_settings=SETTINGS)
        return make(run)

    return wrap


def later_option(name: str, *, flag: bool = False) -> Callable[[Run], Run]:
    """An option of the contract that this build refuses: known, so that it is never taken for a mistake."""

    def refuse(_: click.Context, __: click.Parameter, value: object) -> None:
        if value:
            raise not_yet(name)

    return click.option(name, is_flag=flag, hidden=True, expose_value=False, callback=refuse)


reason_option = click.option("--reason", metavar="TEXT", help="Why, for the audit.")
for_option = click.option("--for", "for_", metavar="DUR", help="How long, such as 90s, 2h, 3d.")


def client() -> Client:
    """The controller that the session names."""
    return Client(current())


def given(values: Mapping[str, object]) -> dict[str, object]:
    """Only what was said."""
    return {key: value for key, value in values.items() if value is not None}


def _example(example: str) -> str:
    lines = "\n".join(f"  {line}" for line in example.splitlines())
    return f"\b\nExample:\n{lines}"
