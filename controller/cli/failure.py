"""The two ways in which `ferrule` does not do what it was asked, with their exit codes."""

import click


class Failure(click.ClickException):
    """Refused or failed: one sentence on stderr, exit code 1."""

    exit_code = 1


class Misuse(click.UsageError):
    """Asked in a way that cannot be done, or that this build cannot do yet: exit code 2."""

    exit_code = 2


def not_yet(what: str) -> Misuse:
    """The refusal of what the contract names and this build does not have."""
    return Misuse(f"this build does not have {what} yet")
