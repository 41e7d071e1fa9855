#!/usr/bin/env bash
# Runs the mpirun on PATH, or the one in .mpi/mpich, with its arguments unchanged. Open MPI refuses
# two things that are normal in a container: root, and more ranks than cores.
set -euo pipefail

mpirun=$(command -v mpirun || echo "$(dirname "$0")/../.mpi/mpich/bin/mpirun")
options=()
if "$mpirun" --version 2>/dev/null | grep -q 'Open MPI\|OpenRTE'; then
  options+=(--oversubscribe)
  [ "$(id -u)" -ne 0 ] || options+=(--allow-run-as-root)
fi
exec "$mpirun" "${options[@]}" "$@"
