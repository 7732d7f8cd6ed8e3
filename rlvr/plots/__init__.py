"""Figures; the only package that knows matplotlib."""
