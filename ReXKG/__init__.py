"""Text to knowledge graph: graph types and scores, and two extractors. Imports nothing of the trainer."""
