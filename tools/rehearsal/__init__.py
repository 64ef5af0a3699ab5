"""A rehearsal of a run at the published sizes, on random weights and films."""
