"""The knowledge-graph audit behind tools/0x_*_kg.py."""
