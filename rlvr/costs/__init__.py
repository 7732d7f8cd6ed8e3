"""What a run costs in memory and time, from shapes: no weight is loaded and nothing is measured."""
