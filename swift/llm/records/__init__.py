"""One reader of records: customary shapes, image fields, image files, and records without an image."""
