"""What we use of Keras that it does not export, in one place.

Names of `keras.src`, underscore attributes of Keras' objects and overrides of
its trainer's internals stand here and nowhere else; each says why it is
needed, where it is upstream, and what would replace it. A new name needs a
test in `tests/test_contracts.py` that fails with a sentence when a release of
Keras changes it. What is public in Keras is imported from `keras` as usual.

- `adapters.py`: batches of any data that `fit` takes.
- `layers.py`: sublayers, tables, and losses that layers add.
- `variables.py`: a variable's shape, and whether its value is detached.
- `slots.py`: an optimizer's slots, clipping and step counter.
- `trainer.py`: `fit`'s compiled functions and the state they pass along.
- `callbacks.py`: a callback's model, as it is.
"""
