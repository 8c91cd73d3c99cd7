"""Tables of features in, encoded columns by row out."""

from keras_dp_retrieval.data.features.encoded_features import EncodedFeatures
from keras_dp_retrieval.data.features.feature_schema import FeatureSchema
from keras_dp_retrieval.data.features.feature_source import Features

__all__ = ["EncodedFeatures", "FeatureSchema", "Features"]
