"""What a run will need of memory, and which layout follows, before any weight is loaded."""
