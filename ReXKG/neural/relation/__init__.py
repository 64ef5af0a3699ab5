"""The relation model: decides which entities of a sentence are related, and by which relation."""
