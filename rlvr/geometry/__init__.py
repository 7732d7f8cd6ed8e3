"""Where in weight space an update went. The maths is pure functions of tensors."""
