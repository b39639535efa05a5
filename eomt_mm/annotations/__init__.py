"""Annotation files, checked on the way in: json documents and the masks in them. Knows no host and no torch."""
