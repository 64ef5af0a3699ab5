# shellcheck shell=bash
# What every script starts with; sourced. Sets ROOT (the repository) and PYTHON, and defines fail and
# keep_from_flags.
set -euo pipefail

ROOT="$(CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-$ROOT/.venv/bin/python}"
[[ -x "$PYTHON" ]] || PYTHON="$(command -v python3 || command -v python)"
export PYTHON PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"

fail() {
  local line="$*"
  printf 'error: %s\n' "${line//$'\n'/\\n}" >&2
  exit 2
}

# Put ./ before the paths in these variables that begin with a hyphen, so that no command takes them for a flag.
keep_from_flags() {
  local name
  for name in "$@"; do
    [[ "${!name:-}" != -* ]] || printf -v "$name" './%s' "${!name}"
  done
}
