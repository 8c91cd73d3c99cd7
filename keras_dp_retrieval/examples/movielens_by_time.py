"""MovieLens by time, beside the most popular films.

    python -m keras_dp_retrieval.examples.movielens_by_time [FOLDER]

A random split lets a model learn from what came after the question. Here one
moment divides all ratings: the model learns what came before, and is asked for
what came after. FOLDER holds `ml-100k` or `ml-100k.zip`, as GroupLens publish
it; without it TensorFlow Datasets looks for its prepared copy, or downloads.

Prints what is in the data and what the split leaks (nothing); what training
did on each device; metrics of the whole catalogue beside those of popularity,
for users that training has (warm) and those who came later (cold), of whom this
model knows nothing; and what one user would be shown.
"""

import argparse

import numpy as np

import keras_dp_retrieval as kdr


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", metavar="FOLDER")
    folder = parser.parse_args().folder

    kdr.data_parallel()  # All devices that there are; one is enough.
    data = kdr.MovieLensRetrievalDataset(
        "100k",
        source="files" if folder else "tfds",
        data_dir=folder,
        split="by_time",
    )
    print(data.describe())

    # Dimension, loss, towers and epochs follow from the data; a few short
    # trials on the validation part choose the rest.
    throughput = kdr.DistributionAwareCallback()
    model = kdr.fit_recipe(data, callbacks=[throughput])
    throughput.report()

    # The score of an item is how often it was rated, the same for everybody:
    # two towers of one dimension.
    counts = data.candidate_counts().astype("float32")[:, None]
    found = {
        "model": kdr.evaluate(model, data, ks=(10,), cold=True),
        "popularity": kdr.evaluate(
            model,
            data,
            ks=(10,),
            cold=True,
            vectors=lambda _: (lambda users: np.ones((len(users), 1)), counts),
        ),
    }
    print("\ntest part                      " + "  ".join(found))
    for name in (
        "warm_users_recall_at_10",
        "warm_users_ndcg_at_10",
        "cold_users_ndcg_at_10",
        "coverage_at_10",
    ):
        values = [f"{one[name]:8.3f}" for one in found.values()]
        print(f"{name:28}" + "".join(values))

    # A user the model knows, without the films that they have rated.
    user = data.user_vocabulary.ids[1]
    ids, scores = model.recommend([user], k=5)
    print(f"\nFor user {user}:")
    for one, score in zip(ids[0].tolist(), scores[0], strict=True):
        print(f"{score:8.2f}  {data.candidate_titles[one]}")


if __name__ == "__main__":
    main()
