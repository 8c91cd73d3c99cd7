"""Lists from a vector database, Postgres with pgvector.

    python -m keras_dp_retrieval.examples.vector_database [CONNECTION]

CONNECTION is `postgresql://USER:PASSWORD@HOST/DATABASE`. Without it, a server
is started in the folder `postgres`, if the package `pgserver` is installed.

The score of a user and a thing is the inner product of their vectors, and `<#>`
is minus that: never order by cosine or Euclidean distance. Prints a list, and
how much of 30 lists a scan and an approximate index find; writes `served`.
"""

import argparse
import sys

import numpy as np
from pyarrow import parquet

import keras_dp_retrieval as kdr

TABLE = "CREATE TEMPORARY TABLE things (id bigint, vector vector({}))"
INDEX = """CREATE INDEX ON things USING hnsw (vector vector_ip_ops);
SET hnsw.ef_search = 200; SET enable_seqscan = off"""
QUERY = """SELECT id FROM things WHERE id <> ALL(%s)
ORDER BY vector <#> %s::vector, id LIMIT 10"""
MISSING = """pip install 'psycopg[binary]' pgserver, or name a server (docker \
run -p 5432:5432 -e POSTGRES_PASSWORD=x pgvector/pgvector:pg17)"""


def connect(address: str | None):
    try:
        import psycopg

        if address is None:
            import pgserver

            address = pgserver.get_server("postgres").get_uri()
    except ImportError as error:
        sys.exit(f"{error}: {MISSING}")
    return psycopg.connect(address, autocommit=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Lists from Postgres.")
    parser.add_argument("connection", nargs="?", metavar="CONNECTION")
    database = connect(parser.parse_args().connection)
    # Made up: most of what a user has is of the user's own kind, one in ten.
    rng = np.random.default_rng(0)
    users, things = rng.integers(0, 300, 9000), rng.integers(0, 2000, 9000)
    own = rng.random(9000) < 0.8
    things[own] = things[own] // 10 * 10 + users[own] % 10
    parts = {"test_fraction": 0, "validation_fraction": 0}
    data = kdr.RetrievalDataset.from_interactions(users, things, **parts)
    model = kdr.fit_recipe(data, tune=False, epochs=5)

    kdr.export_retrieval(model, "served", formats=["parquet"], overwrite=True)
    table = parquet.read_table("served/candidates.parquet")
    database.execute("CREATE EXTENSION IF NOT EXISTS vector")
    database.execute(TABLE.format(table["vector"].type.list_size))
    for one in table.select(["id", "vector"]).to_pylist():
        row = one["id"], str(one["vector"])
        database.execute("INSERT INTO things VALUES (%s, %s)", row)

    asked = range(0, 300, 10)
    lists, _ = model.recommend(asked, k=10)
    print("The model:", lists[0].tolist())
    for title, command in (("A scan", "ANALYZE things"), ("The index", INDEX)):
        database.execute(command)
        shares = []
        for user, best in zip(asked, lists, strict=True):
            vector = model.encode_users([user])[0].tolist()
            seen = things[users == user].tolist()
            rows = database.execute(QUERY, (seen, str(vector))).fetchall()
            shares.append(np.isin(best, rows).mean())
        print(f"{title} finds {np.mean(shares):.1%} of what the model finds.")


if __name__ == "__main__":
    main()
