"""Figures of how far answers depend on the image: a run beside runs of the same questions with other images."""
