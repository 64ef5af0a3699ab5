"""Audit of rewards: attacks, paraphrases, scores and their page."""
