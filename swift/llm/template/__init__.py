"""Records to token ids, and token ids to text, in a model's own chat format."""
