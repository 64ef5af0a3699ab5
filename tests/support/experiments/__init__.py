"""Plans and results of experiments that were never carried out."""
