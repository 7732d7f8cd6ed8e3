"""The verbs of the ``rlvr`` command: each module has ``run``; ``commands`` says what they take."""
