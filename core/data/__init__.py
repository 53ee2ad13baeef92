"""Data sets behind one interface: images, with labels or without, addressed by position."""
