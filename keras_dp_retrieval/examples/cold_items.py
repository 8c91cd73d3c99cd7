"""Books that nobody has bought yet, found by their features.

    python -m keras_dp_retrieval.examples.cold_items

By its id alone a new book is a row of random numbers, which no list should
hold; by genre, author and price it stands beside the books that it is like.
Sales are made up: readers have two genres, books sell while they are new.

Prints metrics of books that training has (warm) and has not (cold), and where a
book that has just come in stands for a reader who has just come in, too.
"""

import keras
import numpy as np

import keras_dp_retrieval as kdr

GENRES = "crime poetry travel cooking history comics science romance".split()
NUM_READERS, NUM_BOOKS, NUM_SALES = 500, 600, 20_000


def made_up(rng) -> tuple[dict, dict, dict]:
    """Sales, readers and books, as columns."""
    genre = rng.integers(0, 8, NUM_BOOKS)
    likes = rng.integers(0, 8, (NUM_READERS, 2))
    day = np.sort(rng.integers(50, 365, NUM_SALES))
    reader = rng.integers(0, NUM_READERS, NUM_SALES)
    wanted = likes[reader, rng.integers(0, 2, NUM_SALES)]
    book = [  # One of the newest that were out on that day.
        rng.choice(np.flatnonzero(genre[: NUM_BOOKS * n // 365] == one)[-20:])
        for n, one in zip(day, wanted, strict=True)
    ]
    sales = {"user_id": reader, "item_id": book, "day": day}
    readers = {
        "user_id": np.arange(NUM_READERS),
        "newsletters": [f"{GENRES[a]}|{GENRES[b]}" for a, b in likes],
    }
    books = {
        "item_id": np.arange(NUM_BOOKS),
        "genre": [GENRES[one] for one in genre],
        "author": [f"author {rng.integers(3) + 3 * one}" for one in genre],
        "price": rng.uniform(5, 30, NUM_BOOKS),
    }
    return sales, readers, books


def main() -> None:
    sales, readers, books = made_up(np.random.default_rng(0))
    found = {}
    tables: dict = {"user_features": readers, "candidate_features": books}
    for title, features in (("ids alone", {}), ("features", tables)):
        data = kdr.RetrievalDataset.from_dataframe(
            sales,
            timestamp_column="day",
            repeated="last",
            split="by_time",
            **features,
        )
        keras.utils.set_random_seed(0)
        model = kdr.TwoTowerRetrieval.for_dataset(data, 32)
        model.compile(optimizer=keras.optimizers.Adam(0.005))
        model.fit(data.train, epochs=20, verbose=0)
        found[title] = kdr.evaluate(model, data, ks=(10,), cold=True)
    print(f"{'recall_at_10 of':20} {'ids alone':>10} {'features':>10}")
    for name in ("warm_candidates", "cold_candidates", "cold_among_cold"):
        values = [one[f"{name}_recall_at_10"] for one in found.values()]
        print(f"{name:20} {values[0]:10.3f} {values[1]:10.3f}")

    # A book comes in: no training, and all we know of the reader is one word.
    new = {"genre": ["poetry"], "author": ["author 4"], "price": [12.0]}
    model.add_candidates([9001], features=new)
    reader = {"newsletters": ["poetry"]}
    ids, _ = model.recommend(user_features=reader, k=NUM_BOOKS + 1)
    place = ids[0].tolist().index(9001) + 1
    print(f"To a reader of poetry the new book is number {place} of {ids.size}")


if __name__ == "__main__":
    main()
