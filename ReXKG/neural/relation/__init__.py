"""The relation model: which of a sentence's entities are related, and how."""
