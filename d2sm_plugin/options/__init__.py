"""Option files: reading, validation, overrides."""
