"""Sweeps: their runs, processes, summary and plots."""
