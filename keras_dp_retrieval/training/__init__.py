"""Training on any rows and devices.

- `step_plan.py` decides how a step runs: read it first.
- `padded_model.py`: `fit`, `evaluate` and `predict` on any number of rows.
- `model_steps.py`: the compiled steps of such a model.
- `model_batches.py`: what these methods are given, checked, as batches.
- `fit_arguments.py`, `fit_callbacks.py`: what else `fit` is given.
- `padded_batches.py`: any data as equal batches.
- `keras_data.py`: data as Keras reads it.
- `batch_groups.py`: batches stacked to groups of steps, padded and cut up.
- `row_weights.py`: one weight for each row.
- `row_rules.py`: the row-sparse rules of Keras' optimizers.
- `finite.py`: NaN and infinity, found where they arise.
- `in_use.py`: which thread has a model's weights.
"""
