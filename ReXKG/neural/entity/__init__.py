"""The entity model: decides which spans of a sentence are entities, and their types."""
