"""Features that others have published: taken in, and given out in the same formats."""
