"""sMLPNet (sparse MLP for image recognition) in Keras 3, on TensorFlow, JAX and PyTorch."""

from keras_smlp import layers as layers
from keras_smlp.analysis import explain as explain
from keras_smlp.analysis.features import feature_extractor as feature_extractor
from keras_smlp.analysis.features import intermediate as intermediate
from keras_smlp.deploy.calibration import calibrate as calibrate
from keras_smlp.deploy.calibration import fit_temperature as fit_temperature
from keras_smlp.deploy.export.api import export as export
from keras_smlp.deploy.folding import fold as fold
from keras_smlp.deploy.lora import enable_lora as enable_lora
from keras_smlp.deploy.lora import merge_lora as merge_lora
from keras_smlp.deploy.quantization import quantize as quantize
from keras_smlp.inference.classes import decode_predictions as decode_predictions
from keras_smlp.inference.classes import imagenet_classes as imagenet_classes
from keras_smlp.inference.images import load_image as load_image
from keras_smlp.inference.images import preprocess_input as preprocess_input
from keras_smlp.inference.loading import load_model as load_model
from keras_smlp.layers.normalization import freeze_batch_norm as freeze_batch_norm
from keras_smlp.model import SMLPNet as SMLPNet
from keras_smlp.model import SMLPNetBase as SMLPNetBase
from keras_smlp.model import SMLPNetSmall as SMLPNetSmall
from keras_smlp.model import SMLPNetTiny as SMLPNetTiny
from keras_smlp.saving import PortableModel as PortableModel
from keras_smlp.variants import VARIANTS as VARIANTS
from keras_smlp.variants import list_models as list_models
from keras_smlp.weights.official import load_official as load_official
from keras_smlp.weights.official import save_official as save_official
from keras_smlp.weights.resizing import resize_weights as resize_weights

__version__ = "0.1.0"
