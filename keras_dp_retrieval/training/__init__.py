"""Training on any rows and devices.

- `step_plan.py` decides how a step runs: read it first.
- `padded_model.py`: `fit`, `evaluate` and `predict` on any number of rows.
- `padded_batches.py`: any data as equal batches.
- `batch_groups.py`: batches stacked to groups of steps, padded and cut up.
- `row_weights.py`: one weight for each row.
- `row_rules.py`: the row-sparse rules of Keras' optimizers.
- `finite.py`: NaN and infinity, found where they arise.
- `in_use.py`: which thread has a model's weights.
"""
