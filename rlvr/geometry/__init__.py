"""The geometry of updates."""
