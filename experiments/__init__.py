"""Experiments: each folder holds a plan, the code that carries it out, and the results of its runs."""
