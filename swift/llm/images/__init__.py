"""Radiographs from untrusted files to the tensors a model takes."""
