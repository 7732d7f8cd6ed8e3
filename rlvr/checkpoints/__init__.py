"""What a checkpoint folder holds: this package knows, and everyone else asks it.

``folders``: which folder a name means, which files in it are weights, and what to name instead.
``reader``: any checkpoint as named tensors, read one at a time. ``plain``: weights of any make.
``lora``, ``delta``: an adapter or a delta applied to its base. ``layout``, ``delta_file``,
``delta_codec``, ``widening``: raw bytes, and the XOR of two checkpoints. ``companions``: the other
files of the folder. ``runs``: the checkpoints of a run. ``whole``: whether a base is a whole
policy. ``fingerprints``: of values; ``layout`` has those of bits.
"""
