"""Sampling of training sets: policies, and the pools they draw from."""
