"""The `quoit` command: one subcommand to a module, imported when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Command:
    """A subcommand; module has `configure(parser)` and `main(options) -> exit code`."""

    name: str
    module: str
    help: str


COMMANDS = (
    Command("run", "quoit.run", "start the ranks of a Python program on this host"),
    Command(
        "doctor", "quoit.doctor", "report what is found, what would be used, and what to improve"
    ),
    Command("bench", "quoit.bench", "time collectives, messages and training beside their peers"),
    Command("tune", "quoit.tune", "measure what links cost, for the choice of algorithms"),
    Command("plan", "quoit.plan", "predict collectives and training on any number of hosts"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `quoit` command; arguments default to the command line. Returns the exit code.

    A ValueError (a wrong argument, a broken environment) becomes one line and exit code 2, Ctrl-C
    one line and exit code 130.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="quoit", description="A communication runtime for PyTorch.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"quoit {_version()}")
    commands = parser.add_subparsers(dest="command_name", metavar="command", required=True)
    for command in COMMANDS:
        subparser = commands.add_parser(
            command.name, help=command.help, description=f"quoit {command.name}: {command.help}"
        )
        if given[:1] == [command.name]:
            module = importlib.import_module(command.module)
            module.configure(subparser)
            subparser.set_defaults(main=module.main)
    options = parser.parse_args(given)
    try:
        code: int = options.main(options)
    except ValueError as error:
        print(f"quoit {options.command_name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"quoit {options.command_name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return code


def _version() -> str:
    try:
        return metadata.version("quoit")
    except metadata.PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
