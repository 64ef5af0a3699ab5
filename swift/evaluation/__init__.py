"""Putting files of questions to policies: jobs, answers on disk, result files."""
