"""Measurements of reading text into knowledge graphs, and of the reward that does so."""
