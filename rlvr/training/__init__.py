"""A training run: what it refuses beforehand, the seam to TRL, what it saves and guards."""
