# shellcheck shell=bash
# What every script starts with; sourced. Sets ROOT (the repository) and PYTHON, and defines fail.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-$ROOT/.venv/bin/python}"
[[ -x "$PYTHON" ]] || PYTHON="$(command -v python3 || command -v python)"
export PYTHON PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"

fail() {
  echo "error: $*" >&2
  exit 2
}
