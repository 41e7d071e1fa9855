"""Provokes mistakes on quoit and on gloo, and tells what each says, and after how many seconds.

    mistakes.py [--only NAME,NAME] [--backends quoit,gloo] [--json FILE] [--markdown FILE]

The mistakes are in mistakes_cases.py. A rank that has raised stays alive until the others are done,
so that nobody learns of a mistake by its exit. Seconds count from when the last rank that made the
mistake before the error began it. What needs root (network namespaces) or both MPIs is left out,
and named, where they are not.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

START_S = 60.0  # for all ranks to begin
PROGRAM = str(Path(__file__).resolve())
BACKENDS = ("quoit", "gloo")
LAUNCHERS = re.compile(r"RANK|WORLD_SIZE|MASTER_|PMI_|PMIX_|OMPI_|HYDRA|MPI_LOCAL|QUOIT_|SLURM_")


@dataclass(frozen=True)
class Outcome:
    """What became of a rank.

    kind: "raised", "nothing" (no error), "wrong" (no error, wrong result), "waiting" or "died".
    said: the error's text, what is wrong, or the signal. after_s: of an error, or None.
    """

    rank: int
    kind: str
    said: str = ""
    error: str = ""
    after_s: float | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="names of mistakes, with commas")
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--json", type=Path, help="where to write every rank's outcome")
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    parser.add_argument("--rank", help=argparse.SUPPRESS)  # be one
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # play on one backend
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    # gloo is to be as if quoit were not installed; a rank of quoit imports it.
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    if options.rank:
        be(json.loads(options.rank))
    if options.serve:
        serve(options.serve, options.only, options.json)
        return 0
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for backend in options.backends.split(","):
            file = Path(folder, backend)
            command = [sys.executable, PROGRAM, "--serve", backend, "--only", options.only]
            subprocess.run([*command, "--json", str(file)], check=True)
            results[backend] = json.loads(file.read_text())
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.markdown:
        import mistakes_table

        options.markdown.write_text(mistakes_table.page(results))
    return 0


def serve(backend: str, only: str, file: Path) -> None:
    """Plays mistakes on one backend; torch is loaded once, and ranks are forked."""
    import mistakes_cases

    if backend == "quoit":
        import quoit  # noqa: F401
    names = only.split(",") if only else list(mistakes_cases.MISTAKES)
    told: dict[str, Any] = {}
    # Those that load more of quoit into this process, whose forks are gloo's ranks, come last.
    for name in sorted(names, key=lambda n: mistakes_cases.MISTAKES[n].place in ("hosts", "mpich")):
        mistake = mistakes_cases.MISTAKES[name]
        if why := lacking(mistake.place):
            print(f"{name}: left out, {why}", file=sys.stderr)
            continue
        outcomes = play(mistake, backend)
        told[name] = [asdict(outcome) for outcome in outcomes]
        for one in outcomes:
            after = "" if one.after_s is None else f"{one.after_s:.2f} s "
            text = " ".join(one.said.split())
            print(f"{backend} {name} {one.rank}: {one.kind} {after}{one.error} {text}", flush=True)
    file.write_text(json.dumps(told))


def lacking(place: str) -> str:
    """Why a mistake cannot be played there, or nothing."""
    if place in ("hosts", "no shm") and os.geteuid() != 0:
        return "it needs root"
    if place == "mpich":
        import mpirun

        try:
            mpirun.prefixes()
        except BaseException as missing:  # pytest's failure, which is no Exception
            return str(missing)
    return ""


# A rank.


def be(job: Mapping[str, Any]) -> None:
    """Plays a rank, and tells what came of it; ends the process."""
    import mistakes_cases

    job = dict(job)
    if job["rank"] < 0:
        job["rank"] = int(os.environ["PMI_RANK"])
    if job["backend"] == "quoit":
        import quoit  # noqa: F401
    rank = mistakes_cases.Rank(**job)
    try:
        said = mistakes_cases.MISTAKES[rank.mistake].play(rank)
        told = {"kind": "wrong" if said else "nothing", "said": said or ""}
    except SystemExit:
        raise  # it is the mistake
    except mistakes_cases.Told as error:
        told = {"kind": "raised", "error": error.args[0], "said": error.args[1]}
    except BaseException as error:
        if isinstance(error, AssertionError):
            traceback.print_exc()
        told = {"kind": "raised", "error": type(error).__name__, "said": str(error)}
    rank.note("outcome", {**told, "time": time.monotonic()})
    rank.wait_for("over")
    os._exit(0)


class Forked:
    """A rank that is a fork of this process; like a Popen."""

    def __init__(self, job: Mapping[str, Any], env: Mapping[str, str], output: Any) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        os.setsid()
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        os.environ.clear()
        os.environ.update(env)
        code = 1
        try:
            be(job)
        except SystemExit as end:
            code = int(end.code or 0)
        atexit._run_exitfuncs()
        os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(0.005)


# The harness.


def play(mistake: Any, backend: str) -> list[Outcome]:
    folder = Path(tempfile.mkdtemp(prefix="mistake"))
    ranks: list[Any] = []
    try:
        with started(mistake, backend, folder, ranks) as cut:
            return watch(mistake, folder, ranks, cut)
    finally:
        (folder / "over").touch()
        for process in ranks:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def started(
    mistake: Any, backend: str, folder: Path, ranks: list[Any]
) -> Iterator[Callable[[], None]]:
    """Starts the ranks; gives what cuts one off."""
    place = mistake.place
    clean = {name: value for name, value in os.environ.items() if not LAUNCHERS.match(name)}
    clean["GLOO_SOCKET_IFNAME"] = "eth0" if place == "hosts" else "lo"
    port = str(free_port())
    output = open(folder / "output", "w")  # noqa: SIM115  (ranks hold it)
    with contextlib.ExitStack() as stack:
        cut: Callable[[], None] = lambda: None  # noqa: E731
        if place == "hosts":
            from quoit.cluster import Cluster

            cluster = stack.enter_context(Cluster(mistake.size))
            cut = lambda: cluster.cut(mistake.size - 1)  # noqa: E731
        for rank in range(1 if place == "mpich" else mistake.size):
            job = {"backend": backend, "mistake": mistake.name, "rank": rank, "size": mistake.size}
            job["folder"] = str(folder)
            env = {name: value.replace("{rank}", str(rank)) for name, value in mistake.env.items()}
            env = {name: value.replace("{port}", port) for name, value in env.items()}
            if place == "":
                ranks.append(Forked(job, {**clean, **env}, output))
                continue
            command = [sys.executable, PROGRAM, "--rank", json.dumps(job)]
            if place == "mpich":
                import mpirun

                family = mpirun.prefixes()
                library = str(next((family["openmpi"] / "lib").glob("libmpi.so.*")))
                env = {name: value.replace("{openmpi}", library) for name, value in env.items()}
                command[-1] = json.dumps({**job, "rank": -1})
                command = [str(family["mpich"] / "bin/mpirun"), "-n", str(mistake.size), *command]
            if place == "no shm":
                fill = "mount -t tmpfs -o size=16k tmpfs /dev/shm && "
                fill += 'head -c 16k /dev/zero > /dev/shm/full && exec "$@"'
                command = ["unshare", "--mount", "sh", "-c", fill, "sh", *command]
            if place == "hosts":
                ranks.append(cluster.start(rank, command, {**clean, **env}, stderr=output))
            else:
                ranks.append(
                    subprocess.Popen(
                        command,
                        env={**clean, **env},
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                )
        output.close()
        yield cut


def watch(
    mistake: Any, folder: Path, ranks: Sequence[Any], cut: Callable[[], None]
) -> list[Outcome]:
    """Waits until every rank has told what came of it, has ended, or waits for too long."""
    from mistakes_cases import LIMIT_S

    asked = [rank for rank in range(mistake.size) if rank not in mistake.spared]
    process = (lambda rank: ranks[0]) if mistake.place == "mpich" else (lambda rank: ranks[rank])
    deadline, happened, turns = time.monotonic() + START_S, False, 0
    while True:
        told = {rank: read(folder / f"outcome{rank}") for rank in asked}
        if all(told[rank] or process(rank).poll() is not None for rank in asked):
            break
        turn = [folder / f"begin{turns + 1}-{rank}" for rank in asked]
        if mistake.event == "garbage" and all(file.exists() for file in turn):
            throw_garbage([one.pid for one in ranks])
            turns += 1
            (folder / f"garbage{turns}").touch()
        begun = [read(folder / f"begin{rank}") for rank in range(mistake.size)]
        if all(begun) and not happened:
            happened = True
            time.sleep(0.5 if mistake.event in ("cut", "interrupt") else 0)
            if mistake.event in ("cut", "interrupt"):
                (folder / "begin-event").write_text(str(time.monotonic()))
            if mistake.event == "cut":
                cut()
            if mistake.event == "interrupt":
                os.kill(ranks[0].pid, signal.SIGINT)
            deadline = time.monotonic() + LIMIT_S
        if time.monotonic() > deadline:
            assert happened, f"{mistake.name}: {(folder / 'output').read_text()}"
            break
        time.sleep(0.01)
    told = {rank: read(folder / f"outcome{rank}") for rank in asked}
    times = sorted(
        json.loads(file.read_text())
        for file in folder.iterdir()
        if re.fullmatch(r"begin(\d|-event)", file.name)
    )
    outcomes = []
    for rank in asked:
        if one := told[rank]:
            at = read(folder / f"time{rank}") or one.pop("time")
            one.pop("time", None)
            after = at - max((t for t in times if t <= at), default=at)
            raised = one["kind"] == "raised"
            outcomes.append(Outcome(rank, **one, after_s=after if raised else None))
        elif (code := process(rank).poll()) is not None:
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            words = (folder / "output").read_text()
            outcomes.append(Outcome(rank, "died", f"{name}: {words.strip()[-400:]}"))
        else:
            outcomes.append(Outcome(rank, "waiting"))
    return outcomes


def read(file: Path) -> Any:
    return json.loads(file.read_text()) if file.exists() else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def throw_garbage(pids: Sequence[int]) -> None:
    """Sends other protocols and noise to every port on which these processes listen."""
    from mistakes_cases import GARBAGE

    ports = {port for pid in pids for port in listening(pid)}
    assert ports, "no rank listens"
    for words in (*GARBAGE, b"", secrets.token_bytes(1 << 16)):
        for family, port in sorted(ports):
            with contextlib.suppress(OSError):  # it may hang up at once
                host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
                with socket.create_connection((host, port), 2) as stranger:
                    stranger.settimeout(2)
                    stranger.sendall(words)
    time.sleep(0.3)


def listening(pid: int) -> set[tuple[int, int]]:
    """Address family and number of the TCP ports on which a process listens."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(link))
    found = set()
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.add((int(family), int(words[1].rpartition(":")[2], 16)))
    return found


if __name__ == "__main__":
    sys.exit(main())
