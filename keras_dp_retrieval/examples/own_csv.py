"""Your own CSV, from a file of events to lists for your users.

    python -m keras_dp_retrieval.examples.own_csv [CSV] [--split random]

The first line of the CSV names its columns. Those with users, items and times
are found by names such as `customer_id`, `product` and `date`; what was chosen
is printed. Without a CSV, `shop.csv` is made up and written where you are:
customers who mostly buy in one or two aisles.

Prints how the columns were read, what is in the file, how good the lists are
for what was bought last, and lists for two users. Writes `shop.keras`, the
model, and proves that it can be loaded and answers the same.
"""

import argparse
import csv
import datetime

import keras
import numpy as np

import keras_dp_retrieval as kdr


def write_shop(path: str) -> None:
    """Writes 12,000 made-up purchases of 400 customers in 8 aisles."""
    rng = np.random.default_rng(0)
    aisles = "tea jam bread fruit cheese pasta soap seeds".split()
    share = 1 / np.arange(1, 26)  # The best seller of an aisle, and so on.
    customers = rng.integers(0, 400, 12_000)
    first, second = rng.integers(0, 8, (2, 400))
    taste = np.where(rng.random(12_000) < 0.7, first[customers], -1)
    taste = np.where(taste < 0, second[customers], taste)
    items = rng.choice(25, 12_000, p=share / share.sum())
    start = datetime.datetime(2026, 1, 1)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["date", "customer_id", "product"])
        for n in range(12_000):
            date = start + datetime.timedelta(minutes=20 * n)
            product = f"{aisles[taste[n]]} {items[n] + 1}"
            writer.writerow([date, f"customer {customers[n]}", product])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("csv", nargs="?", metavar="CSV")
    parser.add_argument("--split", default="by_time", help="by_time, random")
    args = parser.parse_args()
    if args.csv is None:
        args.csv = "shop.csv"
        write_shop(args.csv)
        print("No CSV was given: shop.csv is made up, and written here.")

    # "last": of what somebody bought twice, the latest purchase counts.
    data = kdr.RetrievalDataset.from_csv(
        args.csv, timestamp_column="auto", split=args.split, repeated="last"
    )
    print(data.describe())

    model = kdr.fit_recipe(data)
    for name, value in kdr.evaluate(model, data, ks=(10,)).items():
        print(f"{name:28} {value:8.3f}")

    users = data.user_vocabulary.ids[1:3].tolist()
    ids, _ = model.recommend(users, k=5)
    for user, items in zip(users, ids.tolist(), strict=True):
        print(f"{user}: {', '.join(map(str, items))}")

    model.save("shop.keras")
    loaded = keras.saving.load_model("shop.keras")
    again, _ = loaded.recommend(users, k=5)
    print("shop.keras answers the same:", bool((again == ids).all()))


if __name__ == "__main__":
    main()
