#!/usr/bin/env bash
# Runs the C++ tests under a sanitizer: sanitize.sh VENV_BIN FOLDER thread|address
set -euo pipefail
bin=$1 folder=$2 sanitizer=$3

"$(dirname "$0")/build_cpp.sh" "$bin" "$folder" -DQUOIT_SANITIZE="$sanitizer"
# The thread sanitizer of older compilers cannot map its memory under strong address randomisation.
calm=()
if setarch "$(uname -m)" -R true 2>/dev/null; then calm=(setarch "$(uname -m)" -R); fi
# Memory that cannot be had is an error that the tests ask for, as without a sanitizer.
export ASAN_OPTIONS="allocator_may_return_null=1:${ASAN_OPTIONS:-}"
export TSAN_OPTIONS="allocator_may_return_null=1:${TSAN_OPTIONS:-}"
printf 'quoit: C++ tests with -fsanitize=%s\n' "$sanitizer"
"${calm[@]}" "$bin/ctest" --test-dir "$folder" --output-on-failure --no-tests=error
