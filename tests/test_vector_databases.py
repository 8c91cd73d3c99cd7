"""An export fills a vector database, which then answers as the model does."""

import shutil
import tempfile

import numpy as np
import pytest

import keras_dp_retrieval as kdr
from tests.test_exporting import of_features

pytestmark = pytest.mark.slow

# From Parquet to lists, in the words of the README.
CREATE = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE candidates (
    id text PRIMARY KEY, vector vector({dimension}), kind text, price float8
);
"""
INDEX = "CREATE INDEX ON candidates USING hnsw (vector vector_ip_ops)"
QUERY = """
SELECT id, -(vector <#> %(user)s::vector) AS score FROM candidates
WHERE {condition} ORDER BY vector <#> %(user)s::vector, id LIMIT 10
"""


@pytest.fixture(scope="module")
def database():
    """A connection to a Postgres server with pgvector."""
    reason = "needs the packages pgserver and psycopg"
    pgserver = pytest.importorskip("pgserver", reason=reason)
    psycopg = pytest.importorskip("psycopg", reason=reason)
    folder = tempfile.mkdtemp(prefix="pg")  # Sockets need a short path.
    try:
        server = pgserver.get_server(folder)
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            yield connection
        server.cleanup()
    except (OSError, RuntimeError) as error:
        pytest.skip(f"the server did not start: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def asked(database, vector, condition="true"):
    query = QUERY.format(condition=condition)
    rows = database.execute(query, {"user": str(vector.tolist())}).fetchall()
    return [one for one, _ in rows], np.array([score for _, score in rows])


@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR")
def test_postgres_answers_as_the_model_with_the_bias_and_filters(
    database, tmp_path
):
    from pyarrow import parquet

    model = of_features()
    assert model.popularity_weight == 1.0
    manifest = kdr.export_retrieval(
        model, tmp_path / "served", formats=["parquet"]
    )
    assert manifest["bias_coordinate"] and manifest["dimension"] == 9
    table = parquet.read_table(tmp_path / "served" / "candidates.parquet")
    database.execute(CREATE.format(dimension=manifest["dimension"]))
    with database.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO candidates VALUES (%s, %s::vector, %s, %s)",
            [
                (one["id"], str(one["vector"]), one["kind"], one["price"])
                for one in table.to_pylist()
            ],
        )
    users = [f"user {n}" for n in range(0, 40, 4)]
    vectors = model.encode_users(users)
    for filters, condition in (
        (None, "true"),
        (
            {"kind": "tea", "price": [10, 30]},
            "kind = 'tea' AND price >= 10 AND price <= 30",
        ),
    ):
        ids, scores = model.recommend(
            users, exclude_seen=False, filters=filters
        )
        for row, vector in enumerate(vectors):
            found, their_scores = asked(database, vector, condition)
            np.testing.assert_allclose(
                their_scores, scores[row], rtol=1e-5, atol=1e-6
            )
            assert found == ids[row].tolist()
    database.execute(INDEX)
    database.execute("SET enable_seqscan = off; SET hnsw.ef_search = 100")
    best, _ = model.recommend(users, exclude_seen=False)
    found = [asked(database, vector)[0] for vector in vectors]
    recall = np.mean(
        [np.isin(a, b).mean() for a, b in zip(best, found, strict=True)]
    )
    assert recall > 0.9
