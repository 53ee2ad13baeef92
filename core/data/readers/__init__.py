"""Readers: one file per layout in which images lie on a disk."""
