"""Trains on a streamed folder and writes down what came out.

Usage: train_streamed.py FOLDER OUTPUT.npz PORT NUM_PROCESSES PROCESS_ID
    MAX_HISTORY, 0 for a model that knows ids alone
"""

import sys

from joined import join

folder, output, *place, max_history = sys.argv[1:]
join(*place, devices_each=1)

import keras
import numpy as np

import keras_dp_retrieval as kdr
from keras_dp_retrieval.data.streaming.window_reader import PartReader

keras.utils.set_random_seed(1)
kdr.data_parallel()
data = kdr.RetrievalDataset.from_parquet(
    folder,
    streaming=True,
    timestamp_column="timestamp",
    # Padded for 1, 2 and 3 processes, and in the last batch.
    batch_size=32,
    max_history=int(max_history) or None,
)
tower = None
if data.max_history:
    # Dropout draws other numbers for other shapes.
    options = {"item_dropout": 0.0, "query_dropout": 0.0, "seed": 0}
    tower = kdr.IdHistoryTower(
        data.num_users, data.num_candidates, 8, **options
    )
model = kdr.TwoTowerRetrieval.for_dataset(data, 8, user_tower=tower)
model.compile(keras.optimizers.Adagrad(0.5), steps_per_execution=4)
model.build()
pieces = []
plain = PartReader.read
PartReader.read = lambda self, found: (
    pieces.extend(found),
    plain(self, found),
)[1]
history = model.fit(data.train, epochs=2, verbose=0).history
num_read = len(pieces)
history |= model.fit(
    data.train, validation_data=data.validation, verbose=0
).history
metrics = kdr.evaluate(model, data, max_users=30)
users = data.user_vocabulary.ids
histories = [[2, 4]] * len(users) if data.max_history else None
np.savez(
    output,
    num_read=num_read,
    loss=history["loss"],
    val_loss=history["val_loss"],
    metrics=list(metrics.values()),
    users=model.encode_users(users, histories=histories),
)
