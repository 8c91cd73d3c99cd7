"""Loads a model in a process that only imports the package.

Usage: load_and_recommend.py MODEL.keras
"""

import json
import sys

import keras

import keras_dp_retrieval  # noqa: F401, makes the classes known.

model = keras.saving.load_model(sys.argv[1], safe_mode=True)
ids, scores = model.recommend(model.user_vocabulary.ids, k=3)
print(json.dumps([ids.tolist(), scores.tolist()]))
