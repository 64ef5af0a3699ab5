"""The entity model: which spans of a sentence are entities, and of which type."""
