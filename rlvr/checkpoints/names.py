"""Parameter names without what wrappers and auto classes put around or before them."""

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def canonical(name: str) -> str:
    """Return ``name`` without what wrappers and auto classes put around or before it."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    if parts[:2] == ["base_model", "model"]:
        parts = parts[2:]
    # Auto classes differ: "model.layers.0", "transformer.h.0" and "layers.0" are one name, and so
    # is "model.language_model.layers.0" of a model that also sees.
    while len(parts) > 2 and parts[0] in ("model", "transformer", "language_model"):
        parts = parts[1:]
    return ".".join(part for part in parts if part != "base_layer")
