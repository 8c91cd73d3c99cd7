"""The tutorial's recipe with nothing but Keras and keras-rs, for comparison.

A retrieval model and a data pipeline of the tutorial's shape: user ids in,
`{"movie_id", "rating"}` as targets, squared error of the dot product.
"""

import keras
import keras_rs
from keras import ops


class PlainTwoTower(keras.Model):
    def __init__(self, num_users, num_movies, dim):
        super().__init__()
        self.users = keras.layers.Embedding(num_users, dim)
        self.movies = keras.layers.Embedding(num_movies, dim)
        self.search = keras_rs.layers.BruteForceRetrieval(
            k=10, return_scores=False
        )
        self.squared_error = keras.losses.MeanSquaredError()

    def build(self, input_shape):
        self.users.build(input_shape)
        self.movies.build(input_shape)
        self.search.candidate_embeddings = self.movies.embeddings
        self.search.build(input_shape)
        super().build(input_shape)

    def call(self, user_ids, training=False):
        vectors = self.users(user_ids)
        outputs = {"user_embeddings": vectors}
        if not training:
            outputs["predictions"] = self.search(vectors)
        return outputs

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        products = y_pred["user_embeddings"] * self.movies(y["movie_id"])
        scores = ops.sum(products, axis=-1, keepdims=True)
        return self.squared_error(y["rating"][:, None], scores, sample_weight)


def tutorial_pipeline(data_dir, *, batch_size=1000, num_train=80_000):
    """`(train, test)` as tf.data, in the tutorial's own order."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def example(row):
        movie = tf.strings.to_number(row["movie_id"], tf.int32)
        scaled = (row["user_rating"] - 1.0) / 4.0
        user = tf.strings.to_number(row["user_id"], tf.int32)
        return user, {"movie_id": movie, "rating": scaled}

    tf.random.set_seed(None)  # The tutorial sets none, and it would tell.
    rows = tfds.load("movielens/100k-ratings", split="train", data_dir=data_dir)
    rows = rows.map(example).shuffle(
        100_000, seed=42, reshuffle_each_iteration=False
    )
    train = rows.take(num_train).batch(batch_size).cache()
    test = rows.skip(num_train).take(20_000).batch(batch_size).cache()
    return train, test
