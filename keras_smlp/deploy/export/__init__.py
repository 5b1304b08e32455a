"""Export formats, each written by the backend that writes it well."""
