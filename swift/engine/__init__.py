"""The token engine: batches of prompts, log-probabilities and sampling. Training, evaluation and the demo share it."""
