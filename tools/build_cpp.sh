#!/usr/bin/env bash
# Builds libquoit.so and the C++ tests into FOLDER, silently when all goes well:
#   build_cpp.sh VENV_BIN FOLDER [CMake options]
set -euo pipefail
bin=$1 folder=$2

mkdir -p "$folder"
"$bin/cmake" -S . -B "$folder" -G Ninja "-DCMAKE_MAKE_PROGRAM=$(realpath "$bin/ninja")" \
  -DQUOIT_PYTHON=OFF -DQUOIT_CPP_TESTS=ON -DQUOIT_CUDA=OFF "${@:3}" >"$folder/configure.log" ||
  { cat "$folder/configure.log"; exit 1; }
[ -e "$folder/tests" ] || printf 'quoit: building the C++ tests in %s\n' "$folder"
"$bin/cmake" --build "$folder" -- --quiet
