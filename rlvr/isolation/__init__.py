"""Isolation: functions in workers that are killed at a deadline, and programs in a sandbox.

``pool`` runs a function of ours, or of a library, on many jobs; ``worker`` is the process that does
so; ``sandbox`` and ``jail`` run untrusted programs, each in a process tree of its own.
"""
