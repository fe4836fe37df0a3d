"""Models: loading, adapters, sampling."""
