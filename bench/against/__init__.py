"""The other sides of comparisons: another checkout, in turns with this one, and the rollout as it was before."""
