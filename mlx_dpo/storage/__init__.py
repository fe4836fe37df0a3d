"""Files on disk: how they are written, read and checked."""
