"""Text to knowledge graph: graph types and scores, and the extractors. Knows nothing of the trainer."""
