"""One reader for each layout that a corpus comes in."""
