"""Ways to and from the hubs of others. `import keras_smlp` imports none of it."""
