#!/usr/bin/env bash
# RLVR under swapped update masks, on any machine in minutes: dense, principal, safe, random, LoRA.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/install.sh"
exec rlvr study recipes/pocket/demo.yaml "$@"
