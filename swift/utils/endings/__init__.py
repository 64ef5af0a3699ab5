"""The ends of a command that are not its own: faults of disks, other processes of the run, threads left behind."""
