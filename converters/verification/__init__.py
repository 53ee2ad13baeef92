"""Verification of conversions: the written file, loaded by its library, gives the same feature maps."""
