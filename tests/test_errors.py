"""docs/errors.md says what the sources say: each error is there, and each text there is in use.

An error is a QUOIT_CHECK, a throw or a `text(...)` in csrc; a raise, a warning or a word of
`quoit run` in python. Its text is what its literals make, with … for what varies.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/errors.md"

# Errors that no user meets, by a part of their text, and why.
INTERNAL = {
    "no reduction has dtype number": "the enumerations are closed; a test of the kernels",
    " of no inputs: give at least one": "collectives always reduce something; tests of the kernels",
    " cannot divide by 0": "a group has at least one rank; tests of the kernels",
    "reductions for … asked for": "only tests ask for an instruction set",
    "codecs for … asked for": "only tests ask for an instruction set",
    "codec '…' is not known": "the names come from quoit.codecs",
    "staging: a view that its call has not told of": "the collectives tell of all",
    "CUDA driver from ": "what QUOIT_LOG=debug tells",
    "collectives go by CUDA IPC": "what QUOIT_LOG=debug tells",
    " to take earlier messages": "a part of: timed out waiting for",
    "fingerprint: a tensor that is not dense": "DistributedDataParallel's parameters are",
    "elements as a matrix of … x …: it needs": "quoit.compress gives them all",
    "compression: a tensor of … elements": "a tensor has as many as it has",
    "module 'quoit' has no attribute": "Python's own words",
    "topk(ratio=…, bits=…)": "the name of a codec, no message",
    "the tensors of a compressed buffer ": "an array is one tensor; tests of the collective",
    "compressed reduce_scatter: block": "fully_shard's blocks are alike; tests of the collective",
    "the message from … and the message to": "a part of: timed out waiting for",
    " of an MPI group of ": "the members come from our own meeting",
    "of MPI_COMM_WORLD, but this process is rank": "the members come from our own meeting",
    "the members of an MPI group must be distinct": "the members come from our own meeting",
    "send to rank … of a group of": "the communicator has checked the rank",
    " is not a tensor": "torch has checked it",
    "PREMUL_SUM without its factor": "torch's constructor takes one",
    "this reduce op is not known to quoit": "torch has no further one",
    "the network interfaces of this host cannot be listed": "a failure of the kernel, in its words",
    "the system gives no random numbers": "a failure of the kernel, in its words",
    "this host has no TCP port to listen on": "a failure of the kernel, in its words",
    "bytes into …: pass arrays of one size": "benchmarks and tests of the kernels",
    " is no instruction set of the kernels": "benchmarks and tests of the kernels",
    "a codec works on float32, not on": "benchmarks and tests of the kernels",
    " numbers in … bytes, not in …": "benchmarks and tests of the kernels",
    "the residual has … numbers, the array …": "benchmarks and tests of the kernels",
    "products with factors are of float32": "benchmarks and tests of the kernels",
    "a factor for a side of ": "benchmarks and tests of the kernels",
    "a residual is of the size of its matrix": "benchmarks and tests of the kernels",
    "it takes messages in both directions only": "a reason in the header of quoit bench",
    "links measured: host": "what QUOIT_LOG=debug tells",
    " us expected; us of the others": "what QUOIT_LOG=debug tells",
    "predict: name an algorithm": "quoit plan asks for those that there are",
    ": ask algorithms() what there is": "quoit plan asks for those that there are",
    "there is no operation '": "quoit plan asks for those that there are",
    " ranks: give at least one of each": "quoit plan has checked it",
    "quoit/shrunk": "a name in the store, no message",
    " (ranks … of the job)": "a part of: ranks disagree about the process group",
    " sparse and … dense dimensions": "a part of: ranks disagree",
}

LETTERS = 10  # fewer make no message
CPP_CALL = re.compile(r"\b(?:QUOIT_CHECK|text|(?:Usage|Transport|Timeout|Unavailable)Error)(?=\()")
CPP_STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
CPP_CHARACTER = re.compile(r"'(?:[^'\\\n]|\\.)'")
CPP_COMMENT = re.compile(r"//[^\n]*")


@dataclass(frozen=True)
class Site:
    """An error in a source, or a literal of one; text has … for what varies.

    chooses: whether the source chooses between parts of the text.
    """

    where: str
    text: str
    chooses: bool = False

    def printed_by(self, message: str) -> bool:
        """Whether the message can be what this prints."""
        fragments = [" ".join(part.split()) for part in self.text.split("…") if part.strip()]
        found = [part for part in fragments if part in message]
        if self.chooses:
            return any(len(part) >= 20 for part in found)
        return sum(map(len, found)) >= 0.75 * sum(map(len, fragments))

    @property
    def worth(self) -> bool:
        return sum(map(str.isalpha, self.text)) >= LETTERS

    @property
    def says_something(self) -> bool:
        """Whether a message that has this text must come from here."""
        return sum(map(str.isalpha, self.text)) >= 15 and len(self.text.split()) >= 3


def cpp_sites(name: str, source: str) -> Iterator[Site]:
    source, end = CPP_COMMENT.sub("", source), 0
    for call in CPP_CALL.finditer(source):
        if call.start() < end:
            continue  # inside the one before
        end = _closing(source, call.end())
        said, chooses = "", False
        for number, part in enumerate(CPP_STRING.split(source[call.end() + 1 : end])):
            chooses |= number % 2 == 0 and "?" in part
            if number % 2:
                said += part.replace('\\"', '"')
            elif said and part.strip(" \n,") and not said.endswith("…"):
                said += "…"
        yield Site(
            f"{name}:{source.count(chr(10), 0, call.start()) + 1}", said.rstrip("…"), chooses
        )


def _closing(source: str, at: int) -> int:
    """Where the parenthesis that opens at `at` closes."""
    depth = 0
    while at < len(source):
        skipped = CPP_STRING.match(source, at) or CPP_CHARACTER.match(source, at)
        if skipped:
            at = skipped.end()
            continue
        depth += {"(": 1, ")": -1}.get(source[at], 0)
        if depth == 0:
            return at
        at += 1
    raise AssertionError("unbalanced")


def python_sites(name: str, source: str) -> Iterator[Site]:
    for node in ast.walk(ast.parse(source)):
        said: list[ast.expr] = []
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            said = node.exc.args
        elif isinstance(node, ast.Call) and _called(node) in ("warn", "say"):
            said = node.args[:1]
        elif isinstance(node, ast.Call) and any(word.arg == "file" for word in node.keywords):
            said = node.args
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "problem":
            said = [node.value]
        for argument in said:
            choices = [argument]
            if isinstance(argument, ast.IfExp):
                choices = [argument.body, argument.orelse]
            for choice in choices:
                if words := _words(choice):
                    yield Site(f"{name}:{choice.lineno}", words)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)


def _words(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
        return "".join(map(str, parts))
    return ""


def literals(name: str, source: str) -> Iterator[Site]:
    """Every text of a Python source, for messages that are put together from several."""
    for node in ast.walk(ast.parse(source)):
        if words := _words(node):
            yield Site(name, words)


def sources() -> list[Site]:
    sites: list[Site] = []
    for file in sorted(
        file for end in ("cpp", "cu", "h") for file in ROOT.glob(f"csrc/**/*.{end}")
    ):
        sites += cpp_sites(file.relative_to(ROOT).as_posix(), file.read_text())
    for file in sorted(ROOT.glob("python/quoit/**/*.py")):
        sites += python_sites(file.relative_to(ROOT).as_posix(), file.read_text())
    return [site for site in sites if site.worth]


def messages(page: str) -> list[str]:
    """The texts in the page's fences; a blank line separates two."""
    fences = re.findall(r"^```\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return [" ".join(message.split()) for fence in fences for message in fence.split("\n\n")]


def undocumented(sites: list[Site], page: str) -> list[str]:
    said = messages(page)
    return [
        f"{site.where}: {site.text}"
        for site in sites
        if not any(part in site.text for part in INTERNAL)
        and not any(site.printed_by(message) for message in said)
    ]


def outdated(sites: list[Site], page: str) -> list[str]:
    return [
        message for message in messages(page) if not any(site.printed_by(message) for site in sites)
    ]


def everything() -> list[Site]:
    sites = sources()
    for file in sorted(ROOT.glob("python/quoit/**/*.py")):
        sites += [site for site in literals(file.name, file.read_text()) if site.says_something]
    return sites


def test_every_error_is_on_the_page() -> None:
    missing = undocumented(sources(), PAGE.read_text())
    assert not missing, "write cause and cure into docs/errors.md:\n" + "\n".join(missing)


def test_every_text_on_the_page_is_in_the_sources() -> None:
    stale = outdated(everything(), PAGE.read_text())
    assert not stale, "no source says this any more:\n" + "\n".join(stale)


def test_every_internal_error_exists() -> None:
    texts = [site.text for site in sources()]
    assert [part for part in INTERNAL if not any(part in text for text in texts)] == []


def test_every_message_has_its_cause_and_its_cure() -> None:
    page = PAGE.read_text()
    after = re.split(r"^```\n.*?^```$", page, flags=re.DOTALL | re.MULTILINE)[1:]
    assert len(after) > 40
    for words in after:
        assert re.match(r"\n\*\*Cause\.\*\* .*\*\*Cure\.\*\* ", words, re.DOTALL), words


def test_links_lead_to_sections() -> None:
    page = PAGE.read_text()
    sections = {line.lower().replace(" ", "-") for line in re.findall(r"^## (.*)$", page, re.M)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", page)) == sections


CPP = """
// QUOIT_CHECK(x, UsageError, "a comment of some length")
QUOIT_CHECK(size(')') > 0, UsageError, "the group has ", size, " ranks, ",
            "too few for \\"this\\": start more");
throw TimeoutError(text("rank ", rank, " took a very long time"));
throw UsageError(few ? text("there are too few of them: ", n) : "there are far too many of them");
"""
PYTHON = """
raise ValueError(f"{name}={value} is no number at all" if name else "there is no name for it")
warnings.warn(f"the thing {one!r} is about to break", RuntimeWarning)
print("an error on the way out", file=sys.stderr)
print("not an error but a report")
"""


def test_errors_are_found_in_sources() -> None:
    assert [site.text for site in cpp_sites("a.cpp", CPP)] == [
        'the group has … ranks, too few for "this": start more',
        "rank … took a very long time",
        "there are too few of them: …there are far too many of them",
    ]
    assert {site.text for site in python_sites("a.py", PYTHON)} == {
        "…=… is no number at all",
        "there is no name for it",
        "the thing … is about to break",
        "an error on the way out",
    }


@pytest.mark.parametrize(
    ("message", "documented"),
    [
        ('the group has 0 ranks, too few for\n"this": start more', True),
        ("the group has 0 ranks, too few for that", False),
        ("something else altogether", False),
        ("there are far too many of them", True),
    ],
)
def test_a_page_that_rots_is_found(message: str, documented: bool) -> None:
    first, _, chooses = cpp_sites("a.cpp", CPP)
    site = chooses if "there" in message else first
    sites, page = [site], f"```\n{message}\n```\n"
    assert undocumented(sites, page) == ([] if documented else [f"{site.where}: {site.text}"])
    assert outdated(sites, page) == ([] if documented else [" ".join(message.split())])
