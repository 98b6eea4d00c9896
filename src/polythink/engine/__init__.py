"""Fork/join decoding. Import from its modules: `engine`, `params`, `protocol`, `reference`."""
