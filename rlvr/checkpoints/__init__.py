"""What a checkpoint folder holds: this package knows, and everyone else asks it.

``folders``: which files are weights. ``reader``: any checkpoint as named tensors, read one at a
time. ``plain``: weights of any make. ``lora``: an adapter merged into its base. ``layout``,
``delta_*``, ``widening``: raw bytes, and the XOR of two checkpoints. ``runs``: the checkpoints of
a run. ``fingerprints``: of values; ``layout`` has those of bits.
"""
