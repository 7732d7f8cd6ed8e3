"""Benchmarks by name, the settings that published numbers were made with, and the evaluation."""
