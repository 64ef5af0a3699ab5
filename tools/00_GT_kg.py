"""Graphs of the references of result or annotation files: see tools/kg_audit/commands.py, or --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.kg_audit.commands import reference_graphs

if __name__ == "__main__":
    sys.exit(reference_graphs())
