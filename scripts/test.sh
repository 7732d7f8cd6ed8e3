#!/usr/bin/env bash
# Lint, types and tests in one command, from a bare clone. Arguments go to pytest: scripts/test.sh -m slow
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
ruff check .
ruff format --check .
basedpyright
# A process per core, each with one thread: two libraries' threads on one core slow each other down.
export OMP_NUM_THREADS=1
# In the order of their names: by the number of tests, files of few and long runs would come last.
exec pytest -n logical --dist loadfile --no-loadscope-reorder "$@"
