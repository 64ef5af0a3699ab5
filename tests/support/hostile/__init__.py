"""Attacks on this project: programs, pickles and rewards."""
