"""The built-in extractor: a vocabulary and rules. Needs no weights."""
