"""What all commands share: how they fail, and how they print JSON."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from nasvid.cli import complete
from nasvid.distributed.torchrun import leave_for_summary
from nasvid.errors import Interrupted, RankLost, UserError, nearest
from nasvid.host.files import FULL
from nasvid.host.terminal import say

if TYPE_CHECKING:
    from nasvid.shapes import Resolution

USER_ERROR = 2
"""Exit code for a user's error."""
SECONDS_TO_PRINT = 10.0
"""Seconds that other ranks wait before they print why they end; rank 0 prints at once."""

FIXES = {
    errno.EACCES: "change its permissions, or run as its owner",
    errno.EPERM: "change its permissions, or run as its owner",
    errno.EROFS: "make it writable, or name another folder",
    errno.EMFILE: "allow more open files with ulimit -n",
    errno.ENOSPC: "free some space and try again",
    errno.EDQUOT: "free some space and try again",
}
"""What to do about an error of the system, by its number."""

PATH = click.Path(path_type=Path)
run_folder = click.argument("run", type=PATH)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def utf8(ctx: click.Context, option: click.Parameter, text: str) -> str:
    """Return a text of the command line.

    Raises:
        click.BadParameter: its bytes are not text.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not UTF-8", ctx, option) from None
    return text


class Verbs(click.Group):
    """Commands whose errors are one line, with the nearest command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command.

        Raises:
            click.UsageError: there is none of that name.
        """
        known = self.get_command(ctx, args[0]) is not None
        if not (known or args[0].startswith("-") or ctx.resilient_parsing):
            hint = nearest(args[0], self.list_commands(ctx))
            raise click.UsageError(f"'{args[0]}' is not a command of {ctx.command_path}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are added, which is that of use."""
        del ctx
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command.

        Raises:
            UserError: a plug-in ended the process.
        """
        try:
            return super().invoke(ctx)
        except SystemExit as ended:  # no command of nasvid ends so: a plug-in does
            raise UserError(
                f"A plug-in ended the command: it called exit({ended.code!r}); remove that call"
            ) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command and exit: 0, 2 for a user's error, 128 + the signal when interrupted."""
        try:
            code = super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as error:
            _print_last(error.format_message())
            sys.exit(USER_ERROR)
        except click.ClickException as error:
            _fail(error.format_message())
        except UserError as error:
            _fail(str(error))
        except OSError as error:
            if error.filename is None and error.errno not in FULL:
                raise
            fix = FIXES.get(error.errno or 0)
            what = error.filename or "A file cannot be written"
            _fail(f"{what}: {error.strerror}" + (f"; {fix}" if fix else ""))
        except RankLost as lost:
            _print_last(f"This rank cannot continue: {lost}")
            sys.exit(1)
        except Interrupted as interrupted:
            if not _rank():  # all ranks stop together
                say(interrupted, err=True)
            sys.exit(128 + interrupted.signal)
        except click.Abort:
            say("Interrupted.", err=True)
            sys.exit(130)
        except Exception as error:
            from nasvid.plugins.fault import fault

            message = fault(error)
            if message is None or os.environ.get("NASVID_TRACEBACK"):
                raise
            _fail(message)
        sys.exit(code if isinstance(code, int) else 0)


class PluggedVerbs(Verbs):
    """Commands, and those of plug-ins: entry points of the group `nasvid.verbs`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return nasvid's own commands, then those of plug-ins."""
        return [*super().list_commands(ctx), *sorted(_plugged().names)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; a plug-in's is imported here."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in _plugged().names:
            return own
        return _plugged()[cmd_name].load()


def _plugged() -> EntryPoints:
    return entry_points(group="nasvid.verbs")


def _fail(message: str) -> NoReturn:
    _print_last(f"error: {message}")
    sys.exit(USER_ERROR)


def _rank() -> int:
    """Return the rank of this process; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def _print_last(line: str) -> None:
    """Print a last line; on ranks other than 0, only what rank 0 does not print too.

    Most often all ranks fail for the same reason. Rank 0 then prints it, and the launcher ends the
    others while they wait.
    """
    rank = _rank()
    if rank:
        time.sleep(SECONDS_TO_PRINT)
        line = f"rank {rank}: {line}"
    leave_for_summary(line)
    say(line, err=True)


def print_json(value: Any) -> None:
    """Print a plain value as indented JSON."""
    say(json.dumps(value, indent=1))


class ResolutionType(click.ParamType):
    """A resolution as a recipe names it: `64`, `480x832`, `480x832x81`."""

    name = "resolution"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Resolution:
        """Return the resolution.

        Raises:
            click.BadParameter: it is not one.
        """
        from nasvid.shapes import Resolution

        try:
            return Resolution.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class FiniteRange(click.FloatRange):
    """A number within bounds; `nan`, which compares as within any, is refused."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number.

        Raises:
            click.BadParameter: it is not one, or not within the bounds.
        """
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


settings = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting; paths are relative to the current folder. Repeatable.",
)


scale = click.option(
    "--scale",
    metavar="NAME",
    shell_complete=complete.scales,
    help="One of the recipe's scales [default: auto].",
)


before_finetuning = click.option(
    "--before-finetuning",
    is_flag=True,
    help="Take the weights that the subnet had before `nasvid finetune`.",
)
trust_plugins = click.option(
    "--trust-plugins",
    "trust",
    is_flag=True,
    help="Run plug-ins that the run was not started with, or that lie in its folder.",
)


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its recipe and the options that change it."""
    for option in (settings, scale, click.argument("recipe", type=PATH)):
        command = option(command)
    return command
