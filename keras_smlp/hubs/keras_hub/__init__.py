"""sMLPNet for KerasHub: backbone, image converter, preprocessor and image classifier.

Import this module before KerasHub's own classes read a preset of it
(`keras_hub.models.ImageClassifier.from_preset`): then Keras knows the names in its files. Images
are resized, cropped and normalized by the preprocessor, as with all of KerasHub's classifiers, so
the backbone takes normalized images.
"""

from keras_smlp.hubs.keras_hub.backbone import SMLPNetBackbone as SMLPNetBackbone
from keras_smlp.hubs.keras_hub.classifier import SMLPNetImageClassifier as SMLPNetImageClassifier
from keras_smlp.hubs.keras_hub.preprocessing import (
    SMLPNetImageClassifierPreprocessor as SMLPNetImageClassifierPreprocessor,
)
from keras_smlp.hubs.keras_hub.preprocessing import SMLPNetImageConverter as SMLPNetImageConverter
