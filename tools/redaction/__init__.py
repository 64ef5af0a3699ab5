"""Copies of run and result folders without patient data, and lists of what in a folder holds patient data."""
