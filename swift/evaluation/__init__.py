"""Evaluation of policies on files of questions: jobs, answers on disk, result files."""
