"""The neural extractor: PURE's entity and relation models, and their training."""
