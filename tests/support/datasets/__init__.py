"""Small data sets in the shapes and layouts of public ones."""
