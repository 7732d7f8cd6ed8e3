"""The child side of the sandbox: a program of its own, run as ``python jail JOB CONTROL``."""
