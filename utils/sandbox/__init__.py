"""The walls around programs that a model wrote: bubblewrap's namespaces and a filter of system calls."""
