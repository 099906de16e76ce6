"""Revisions, one file each. A released one never changes: what is wrong is mended by the next."""
