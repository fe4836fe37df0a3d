"""One preference run: step, trainer, start-up checks, log."""
