"""What keras_smlp is compared with: the official network and recipe, stand-in weights, answers.

The network is PyTorch's, the recipe NumPy's and PIL's; the golden files are the official code's
answers. Of keras_smlp only the data sources and the configuration are imported.
"""
