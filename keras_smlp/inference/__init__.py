"""Photos in, names of classes out: loads any file of ours. May import model and what is below."""
