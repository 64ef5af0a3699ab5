"""Policies on disk: layouts, loading, saving, checking."""
