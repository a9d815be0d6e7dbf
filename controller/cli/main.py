"""`ferrule`: the operator's command line. It speaks to the controller's API and to nothing else."""

import os
import sys
import traceback
from collections.abc import Sequence

import click

from controller.cli import account, audit, fabric, inventory, policy, sovereignty
from controller.cli.words import group
from overlay.errors import FerruleError, InputError

DONE = 0
FAILED = 1
MISUSED = 2
INTERRUPTED = 130

LATER = (
    "request", "approve", "refuse", "apply", "export", "doctor", "evidence",
)  # fmt: skip

root = group(
    "ferrule",
    "Decide who may reach what in the plant, see what happens, and cut it off.\n\nBegin with `ferrule login`.",
    "ferrule allow hmi-a to plc-b over modbus for 2h",
    later=LATER,
)
root = click.version_option(package_name="ferrule", message="%(package)s %(version)s")(root)
for part in (account, inventory, policy, sovereignty, fabric, audit):
    part.register(root)


def main() -> None:
    """The `ferrule` command."""
    sys.exit(run(sys.argv[1:]))


def run(words: Sequence[str]) -> int:
    """Do what `words` say and return the exit code: 0 done, 1 refused or failed, 2 asked wrongly.

    Whatever goes wrong is one sentence on stderr.
    """
    try:
        code = root.main(list(words), prog_name="ferrule", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(error.format_message() + "\n")
        return MISUSED
    except click.UsageError as error:
        hint = f" (see `{error.ctx.command_path} --help`)" if error.ctx is not None else ""
        return _say(error.format_message() + hint, MISUSED)
    except InputError as error:
        return _say(str(error), MISUSED)
    except click.ClickException as error:
        return _say(error.format_message(), FAILED)
    except FerruleError as error:
        return _say(str(error), FAILED)
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _say(f"{error.filename or 'the system'}: {error.strerror}", FAILED)
    except Exception as error:  # noqa: BLE001 - people never get a traceback
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} at {os.path.basename(place.filename)}:{place.lineno}"
        return _say(f"internal error ({where}); please report it", FAILED)
    return code if isinstance(code, int) else DONE


def _say(sentence: str, code: int) -> int:
    sys.stderr.write(f"ferrule: {sentence}\n")
    return code


if __name__ == "__main__":
    main()
