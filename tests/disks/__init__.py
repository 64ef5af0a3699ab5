"""Faults of disks and folders, and input that is too long."""
