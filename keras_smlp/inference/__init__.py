"""Loads any model file and photos, and names the classes. May import model and what is below."""
