"""Audit of facts that generated texts invent and leave out: see tools/kg_audit/commands.py, or --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.kg_audit.commands import hallucination_audit

if __name__ == "__main__":
    sys.exit(hallucination_audit())
