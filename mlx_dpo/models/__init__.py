"""Models behind one door: loading, adapters, forwards, sampling."""
