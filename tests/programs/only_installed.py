"""Serves a model where only some packages are installed.

Usage: only_installed.py MODEL.keras INTERACTIONS.npz PACKAGE...

Importing a package that is neither named, nor required by one that is, fails as
if it were not there. Prints, as JSON: recommended ids, those of the index, and
the metrics of the interactions.
"""

import importlib.metadata
import json
import re
import sys


def with_requirements(names):
    """The packages, and all that they require, without extras."""
    found, left = set(), list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for requirement in importlib.metadata.requires(name) or []:
            if "extra ==" not in requirement:
                left.append(re.match(r"[\w.-]+", requirement)[0])
    return found


class OnlyInstalled:
    """Finds nothing of other packages."""

    def __init__(self, names):
        installed = with_requirements(names)
        self.missing = {
            module
            for module, owners in (
                importlib.metadata.packages_distributions().items()
            )
            if not installed & {one.lower().replace("_", "-") for one in owners}
        } - {"keras_dp_retrieval"}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, OnlyInstalled(sys.argv[3:]))

import keras
import numpy as np

import keras_dp_retrieval as kdr

model = keras.saving.load_model(sys.argv[1])
users = model.user_vocabulary.ids[:4]
ids, _ = model.recommend(users, k=3)
index = model.build_index()
found, _ = index.search(model.encode_users(users), k=3)
with np.load(sys.argv[2]) as arrays:
    data = kdr.RetrievalDataset(
        arrays["user_ids"],
        arrays["candidate_ids"],
        test_fraction=0.2,
        validation_fraction=0,
        candidate_key=model.candidate_key,
    )
metrics = kdr.evaluate(model, data, ks=(3,))
print(json.dumps([ids.tolist(), found.tolist(), metrics]))
