"""Weights files: the official ones and Keras' own, downloads, resampling.

May import naming, saving and what is below.
"""
