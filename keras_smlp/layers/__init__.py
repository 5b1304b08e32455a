"""Keras layers of sMLPNet, each usable alone in another model."""

from keras_smlp.layers.depthwise import DepthwiseConv as DepthwiseConv
from keras_smlp.layers.drop_path import DropPath as DropPath
from keras_smlp.layers.folded import Affine as Affine
from keras_smlp.layers.folded import FoldedChannelMixing as FoldedChannelMixing
from keras_smlp.layers.folded import FoldedTokenMixing as FoldedTokenMixing
from keras_smlp.layers.mixing import ChannelMixing as ChannelMixing
from keras_smlp.layers.mixing import TokenMixing as TokenMixing
from keras_smlp.layers.patches import PatchConv as PatchConv
from keras_smlp.layers.sparse_mlp import AxialLinear as AxialLinear
from keras_smlp.layers.sparse_mlp import SparseMLP as SparseMLP
