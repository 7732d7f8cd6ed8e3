"""Reports that a person reads: self-contained pages of what ``rlvr.geometry`` measures."""
