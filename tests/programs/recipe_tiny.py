"""Has `fit_recipe` choose between towers, and writes down what came out.

Usage: recipe_tiny.py OUTPUT.npz PORT NUM_PROCESSES PROCESS_ID DEVICES_EACH
"""

import pathlib
import sys

from joined import join

output, *place = sys.argv[1:]
join(*place)

import numpy as np

import keras_dp_retrieval as kdr

# The repository, whose benchmarks are not installed.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))
from benchmarks.ordered_data import ordered_data

kdr.data_parallel()
data, *_ = ordered_data(
    "bigrams", 0, num_users=120, num_groups=4, group_size=8, length=14
)
model = kdr.fit_recipe(
    data,
    temperature=0.13,
    popularity_weight=0.0,
    embedding_dimension=8,
    item_dropout=0.0,
    query_dropout=0.0,
)
ids, scores = model.recommend(histories=[[1, 9, 17], [9, 1]], k=5)
np.savez(output, ids=ids, scores=scores, tower=type(model.user_tower).__name__)
