"""Studies: many runs that differ in what a question asks, and what their numbers can say."""
