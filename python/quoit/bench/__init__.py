"""`quoit bench`: collectives, messages, a training step and kernels, beside their peers.

All peers work in one process, on the same memory, and take turns, so that noise hits all alike:

    command   what the user meets                  options   its command line, plan: what follows
    launch    starts the ranks                     ranks     is a rank, started by us or by others
    peers     connects quoit, gloo, MPI, NCCL      calls     what each of them is made to call
    messages  the patterns of send_recv            measure   turns, the clock, the check of results
    ddp       a training step                      codec     kernels against memcpy
    results   merges launches into rows            show, export, plot    of these rows

docs/performance.md tells the method.
"""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of `quoit bench`."""
    from quoit.bench import options

    options.configure(parser)


def main(options: argparse.Namespace) -> int:
    """Measure and report; returns the exit code."""
    from quoit.bench import command

    return command.main(options)
