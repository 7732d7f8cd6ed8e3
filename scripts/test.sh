#!/usr/bin/env bash
# Lint, types and tests in one command, from a bare clone. Arguments go to pytest: scripts/test.sh -m slow
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
ruff check .
ruff format --check .
basedpyright
exec pytest "$@"
