"""Jobs of real life, each a short program that runs.

`python -m keras_dp_retrieval.examples` lists them. They use the public names
alone: copy one, and change it.
"""
