"""HTML pages: one a notebook, the index of a profile, and the scores in it."""
