"""The verbs of the ``rlvr`` command: each module has ``add_arguments`` and ``run``."""
