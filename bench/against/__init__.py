"""Comparison with another checkout of this project: both work in processes of their own, in turns."""
