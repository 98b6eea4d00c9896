"""Fork/join decoding. Import from the modules: this package itself imports nothing."""
