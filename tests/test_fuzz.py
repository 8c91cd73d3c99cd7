"""Whatever comes in: the right result, or an error that says what is wrong."""

import collections
import json

import keras
import numpy as np
import pytest
from hypothesis import strategies as st

import keras_dp_retrieval as kdr
from keras_dp_retrieval import cli
from keras_dp_retrieval.recipe import fit as recipe_fit
from tests.fuzzing import (
    amounts,
    changed,
    columns,
    damages,
    ends_well,
    fuzz,
    scalars,
)

USERS = ["ann", "ann", "ann", "bob", "bob", "bob", "cid", "cid"]
CANDIDATES = [10, 20, 30, 10, 40, 50, 20, 60]


@pytest.fixture(scope="module")
def data():
    return kdr.RetrievalDataset.from_interactions(
        USERS, CANDIDATES, validation_fraction=0, test_fraction=0.25, seed=1
    )


def make_model(data):
    keras.utils.set_random_seed(0)
    tower = kdr.IdHistoryTower(
        data.num_users, data.num_candidates, 4, query_dropout=0.0
    )
    return kdr.TwoTowerRetrieval.for_dataset(
        data, 4, objective="full_softmax", user_tower=tower
    )


@pytest.fixture(scope="module")
def model(data):
    model = make_model(data)
    model.compile(optimizer=keras.optimizers.Adagrad(0.1))
    model.fit(data.train, epochs=1, verbose=0)
    return model


# Data


def pairs_of(data):
    """How often the parts hold each pair of raw ids."""
    counted = collections.Counter()
    for part in ("train", "validation", "test"):
        ratings = data.ratings(part)
        users = data.user_vocabulary.raw_ids(ratings.user_rows)
        candidates = data.candidate_vocabulary.raw_ids(ratings.candidate_rows)
        counted.update(zip(users.tolist(), candidates.tolist(), strict=True))
    return counted


DATA = {
    "user_ids": USERS,
    "candidate_ids": CANDIDATES,
    "ratings": [1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 2.0, 3.0],
    "timestamps": [8, 7, 6, 5, 4, 3, 2, 1],
    "split": "random",
    "test": None,
    "validation": None,
    "test_fraction": 0.2,
    "validation_fraction": 0.1,
    "batch_size": 4,
    "seed": 0,
    "candidate_titles": None,
    "candidate_key": "movie_id",
    "rating_key": "rating",
    "rating_range": (1.0, 5.0),
}


@amounts(25, 400)
def test_interactions_are_kept_as_they_are_or_refused(examples):
    @fuzz(examples, arguments=changed(DATA, columns()))
    def case(arguments):
        data, _ = ends_well(kdr.RetrievalDataset, **arguments)
        if data is None:
            return
        users, candidates = (
            np.asarray(arguments[name]).tolist()
            for name in ("user_ids", "candidate_ids")
        )
        expected = collections.Counter(zip(users, candidates, strict=True))
        for part in ("validation", "test"):
            if arguments[part] is not None:
                held_out = map(list, arguments[part][:2])
                expected.update(zip(*held_out, strict=True))
        assert pairs_of(data) == expected
        for batch in data.train.as_numpy_iterator():
            assert set(batch[1]) <= {data.candidate_key, data.rating_key}
        assert data.description and repr(data)


@amounts(8, 100)
def test_ratings_and_times_keep_their_order(examples):
    order_of = {
        "ratings": st.lists(st.floats(1, 5), min_size=8, max_size=8),
        "timestamps": st.lists(
            st.one_of(st.integers(-(2**80), 2**80), st.floats()),
            min_size=8,
            max_size=8,
        ),
    }

    @fuzz(examples, **order_of)
    def case(ratings, timestamps):
        data, _ = ends_well(
            kdr.RetrievalDataset,
            ["u"] * 8,
            list(range(8)),
            ratings,
            timestamps,
            test_fraction=0,
            validation_fraction=0,
        )
        if data is None:
            return
        held = data.candidate_vocabulary.raw_ids(data.seen.candidate_rows)
        # Python compares whole numbers and floats exactly.
        in_order = [timestamps[candidate] for candidate in held]
        assert in_order == sorted(timestamps)
        rated = dict(
            zip(
                data.ratings("train").candidate_rows.tolist(),
                data.ratings("train").ratings.tolist(),
                strict=True,
            )
        )
        assert [rated[row + 1] for row in range(8)] == [
            np.float32(rating) for rating in ratings
        ]


@amounts(8, 100)
def test_csv_files_of_any_text(examples, tmp_path):
    path = tmp_path / "some.csv"
    lines = st.lists(
        st.sampled_from(
            [
                "user_id,candidate_id\n",
                "user_id;candidate_id\n",
                "ann,10\n",
                "bob;20\n",
                '"cid, dee",30\n',
                '"un',
                "\n",
                "\r\n",
                ",\n",
                "ann,\n",
                "a,b,c\n",
                "\0",
                "\ufeff",
                "é,ü\n",
                "7,007\n",
            ]
        ),
        max_size=8,
    )

    @fuzz(examples, lines=lines, known=st.booleans())
    def case(lines, known):
        text = "user_id,candidate_id\n" * known + "".join(lines)
        path.write_text(text, encoding="utf-8")
        data, _ = ends_well(
            kdr.RetrievalDataset.from_csv,
            path,
            test_fraction=0,
            validation_fraction=0,
        )
        if data is not None:
            assert len(data.ratings("train")) <= text.count("\n") + 1
            assert "" not in data.user_vocabulary.ids.tolist()


@amounts(8, 100)
def test_damaged_parquet_files(examples, tmp_path):
    import pandas

    path = tmp_path / "some.parquet"
    frame = pandas.DataFrame({"user_id": USERS, "candidate_id": CANDIDATES})
    frame.to_parquet(path)
    expected = collections.Counter(zip(USERS, CANDIDATES, strict=True))

    @fuzz(examples, damaged=damages(path.read_bytes()))
    def case(damaged):
        path.write_bytes(damaged)
        data, _ = ends_well(
            kdr.RetrievalDataset.from_parquet,
            path,
            test_fraction=0,
            validation_fraction=0,
        )
        # A flipped byte of a value is another value: Parquet has no checksum
        # that pandas writes by default. No row may get lost.
        if data is not None:
            assert sum(pairs_of(data).values()) == sum(expected.values())


# Parts: built from odd arguments, or refused; a built one survives JSON.


def parts(data):
    objective = {"temperature": 0.1, "learn_temperature": False}
    tower = {
        "num_candidates": data.num_candidates,
        "embedding_dimension": 4,
        "max_length": None,
        "item_dropout": 0.2,
        "query_dropout": 0.3,
        "seed": None,
    }
    return {
        kdr.RowEmbedding: {"input_dim": 5, "output_dim": 4},
        kdr.TwoTowerRetrieval: {
            "num_users": 4,
            "num_candidates": 7,
            "embedding_dimension": 4,
            "objective": "auto",
            "k": 3,
            "candidate_key": "movie_id",
            "rating_key": "rating",
            "user_tower": None,
            "candidate_tower": None,
            "embedding_updates": "auto",
            "initial_stddev": None,
            "histories": None,
            "popularity_weight": 0.0,
        },
        kdr.IdHistoryTower: {**tower, "num_users": 4, "stddev": 0.1},
        kdr.RecencyTower: {**tower, "decays": (0.0, 0.5), "stddev": 0.1},
        kdr.FullSoftmax: {
            **objective,
            "normalize": True,
            "mask_known_positives": True,
            "positives_power": 0.5,
            "rating_weight": 0.0,
            "logq_power": 0.0,
            "chunk_size": None,
        },
        kdr.InBatchSoftmax: {
            **objective,
            "logq": "corrected",
            "mask_accidental_hits": True,
            "hard_negatives": None,
            "num_uniform_negatives": 0,
            "seed": None,
        },
        kdr.RatingError: {},
        kdr.Histories: {
            "num_users": 4,
            "num_interactions": 8,
            "max_length": 3,
        },
        kdr.CandidateIndex: {
            "embedding_dimension": 4,
            "candidate_dtype": "float32",
            "chunk_size": None,
        },
        kdr.DistributionAwareCallback: {"log_dir": None},
        kdr.RetrievalMetrics: {
            "data": data,
            "split": "validation",
            "ks": (10,),
        },
        kdr.RetrievalHyperModel: {
            "data": data,
            "embedding_dimension": (4, 8),
            "learning_rate": (0.01, 1.0),
            "temperature": None,
            "weight_decay": None,
            "model_objective": "auto",
            "optimizer": "adagrad",
            "steps_per_execution": 1,
            "ks": (10,),
            "devices": None,
            "seed": 0,
        },
        kdr.MovieLensRetrievalDataset: {
            "version": "100k",
            "source": "synthetic",
            "data_dir": None,
            "split": "random",
            "batch_size": 100,
            "seed": 1,
            "test_fraction": 0.2,
            "validation_fraction": 0.1,
            "candidate_key": "movie_id",
            "rating_key": "rating",
        },
    }


@amounts(20, 400)
def test_parts_are_built_or_refused(examples, data):
    kinds = parts(data)
    drawn = st.sampled_from(sorted(kinds, key=lambda kind: kind.__name__))

    @fuzz(
        examples,
        drawn=drawn.flatmap(
            lambda kind: st.tuples(
                st.just(kind), changed(kinds[kind], columns(), most=2)
            )
        ),
    )
    def case(drawn):
        kind, arguments = drawn
        made, _ = ends_well(kind, **arguments)
        if made is None or kind in (
            # They hold a data set, whose config holds its interactions.
            kdr.RetrievalMetrics,
            kdr.RetrievalHyperModel,
        ):
            return
        config = json.loads(json.dumps(made.get_config()))
        again = kind.from_config(config).get_config()
        assert json.loads(json.dumps(again)) == config


@amounts(5, 60)
def test_objectives_of_any_name(examples):
    @fuzz(examples, identifier=columns())
    def case(identifier):
        found, _ = ends_well(kdr.losses.get, identifier)
        assert found is None or isinstance(found, kdr.Objective)


@amounts(5, 50)
def test_devices_of_any_name(examples):
    @fuzz(examples, devices=columns())
    def case(devices):
        found, _ = ends_well(kdr.data_parallel, devices)
        keras.distribution.set_distribution(None)
        if found is not None and devices is not None:
            assert [str(name) for name in found.device_mesh.devices] == devices


RECIPE = {
    "order": "ignored",
    "objective": "full_softmax",
    "embedding_dimension": 4,
    "temperature": 0.1,
    "learning_rate": 0.01,
    "weight_decay": 0.1,
    "batch_size": 4,
    "epochs": 1,
    "item_dropout": 0.1,
    "query_dropout": 0.1,
    "rating_weight": 0.0,
    "popularity_weight": 0.0,
    "seed": 0,
    "tune": False,
    "validation_in_train": True,
}


@amounts(10, 150)
def test_recipes_are_right_before_they_train(examples, data, monkeypatch):
    trained = []
    monkeypatch.setattr(recipe_fit, "_train", lambda *_, **__: trained)
    valid = {"data": data, **RECIPE}

    @fuzz(examples, arguments=changed(valid, columns()))
    def case(arguments):
        result, _ = ends_well(kdr.fit_recipe, **arguments)
        assert result is None or isinstance(arguments["data"], type(data))


# A trained model


@amounts(15, 200)
def test_recommendations_are_right_or_refused(examples, model, data):
    seen = {user: set() for user in USERS}
    train = data.ratings("train")
    for user, candidate in zip(
        data.user_vocabulary.raw_ids(train.user_rows).tolist(),
        data.candidate_vocabulary.raw_ids(train.candidate_rows).tolist(),
        strict=True,
    ):
        seen[user].add(candidate)
    vectors = dict(
        zip(
            model.retrievable_ids().tolist(),
            model.encode_candidates(),
            strict=True,
        )
    )
    valid = {
        "user_ids": ["ann", "bob"],
        "k": 3,
        "exclude_seen": True,
        "histories": None,
    }
    histories = st.lists(
        st.lists(st.sampled_from([*CANDIDATES, 70, "10", None]), max_size=3),
        min_size=2,
        max_size=2,
    )

    @fuzz(
        examples,
        arguments=changed(valid, st.one_of(columns(), histories)),
    )
    def case(arguments):
        k = arguments["k"]
        if isinstance(k, int) and k > 1000:
            return  # The lists would be as long as they were asked for.
        result, _ = ends_well(model.recommend, **arguments)
        if result is None:
            return
        ids, scores = result
        if arguments["user_ids"] is not None:
            users = np.asarray(arguments["user_ids"]).tolist()
            queries = model.encode_users(arguments["user_ids"])
            left_out = [seen[user] for user in users]
        else:
            queries = model.encode_users(histories=arguments["histories"])
            left_out = [
                set(np.asarray(history).tolist())
                for history in arguments["histories"]
            ]
        if not arguments["exclude_seen"]:
            left_out = [set()] * len(queries)
        assert ids.shape == scores.shape == (len(queries), k)
        for query, out, row, row_scores in zip(
            queries, left_out, ids.tolist(), scores, strict=True
        ):
            found = np.isfinite(row_scores).sum()
            assert found == min(k, len(set(vectors) - out))
            assert len(set(row[:found])) == found
            assert not set(row[:found]) & out
            assert set(row[found:]) <= {-1}
            assert (np.diff(row_scores[:found]) <= 0).all()
            expected = [vectors[one] @ query for one in row[:found]]
            np.testing.assert_allclose(row_scores[:found], expected, atol=1e-5)


@amounts(8, 100)
def test_growth_is_whole_or_changes_nothing(examples, data):
    @fuzz(
        examples,
        side=st.sampled_from(["users", "candidates"]),
        ids=st.one_of(columns(), st.lists(st.text("xyz", max_size=2))),
        seed=st.one_of(st.just(0), scalars()),
    )
    def case(side, ids, seed):
        model = make_model(data)
        before = [np.array(weight) for weight in model.weights]
        known = getattr(model, f"{side[:-1]}_vocabulary").ids.tolist()
        grow = getattr(model, f"add_{side}")
        _, error = ends_well(grow, ids, seed=seed)
        after = [np.array(weight) for weight in model.weights]
        if error is not None:
            for old, new in zip(before, after, strict=True):
                np.testing.assert_array_equal(old, new)
            return
        grown = getattr(model, f"{side[:-1]}_vocabulary").ids.tolist()
        assert grown == known + np.asarray(ids).tolist()
        assert all(np.isfinite(weight).all() for weight in after)


FIT = {
    "x": np.array([1, 2, 3, 1, 2, 3, 1, 2]),
    "y": {"movie_id": np.array([1, 2, 3, 4, 5, 6, 1, 2])},
    "sample_weight": None,
    "batch_size": 4,
    "epochs": 1,
    "initial_epoch": 0,
    "shuffle": True,
    "validation_split": 0.0,
    "validation_data": None,
    "steps_per_epoch": None,
    "validation_steps": None,
    "validation_batch_size": None,
    "validation_freq": 1,
    "class_weight": None,
}


@amounts(6, 150)
def test_fit_trains_on_all_rows_or_leaves_the_weights_alone(examples):
    labels = st.builds(lambda ids: {"movie_id": ids}, columns())

    @fuzz(examples, arguments=changed(FIT, st.one_of(columns(), labels)))
    def case(arguments):
        epochs = arguments["epochs"]
        if not isinstance(epochs, int) or epochs > 12:
            return  # Keras' own arguments, handed through.
        model = kdr.TwoTowerRetrieval(4, 7, 4, objective="full_softmax")
        model.build()
        model.compile(optimizer="sgd")
        before = [np.array(weight) for weight in model.weights]
        history, error = ends_well(model.fit, verbose=0, **arguments)
        after = [np.array(weight) for weight in model.weights]
        assert all(np.isfinite(weight).all() for weight in after)
        if error is not None:
            for old, new in zip(before, after, strict=True):
                np.testing.assert_array_equal(old, new)
        elif history.history:
            assert np.isfinite(history.history["loss"]).all()


@amounts(5, 80)
def test_evaluation_of_any_arguments(examples, model, data):
    valid = {"data": data, "split": "test", "ks": (2,)}

    @fuzz(examples, arguments=changed(valid, columns()))
    def case(arguments):
        metrics, _ = ends_well(kdr.evaluate, model, **arguments)
        if metrics is not None:
            assert 0 <= metrics[f"recall_at_{max(arguments['ks'])}"] <= 1


@amounts(8, 120)
def test_index_is_a_full_sort_or_an_error(examples):
    valid = {
        "candidate_ids": [5, 3, 9, 1],
        "vectors": np.arange(8.0).reshape(4, 2),
    }
    search = {
        "query_vectors": np.array([[1.0, -1.0], [0.5, 2.0]]),
        "k": 2,
        "exclude": None,
        "allowed_ids": None,
    }

    @fuzz(
        examples,
        content=changed(valid, columns(), most=1),
        search=changed(search, columns()),
    )
    def case(content, search):
        if isinstance(search["k"], int) and search["k"] > 1000:
            return
        index, _ = ends_well(kdr.CandidateIndex.from_vectors, **content)
        if index is None:
            return
        assert index.ids().tolist() == sorted(
            np.asarray(content["candidate_ids"]).tolist()
        )
        result, _ = ends_well(index.search, **search)
        if result is None:
            return
        ids, scores = result
        assert ids.shape == scores.shape
        everything = np.sort(
            np.asarray(search["query_vectors"], "float32") @ index.vectors().T
        )[:, ::-1]
        if search["exclude"] is None and search["allowed_ids"] is None:
            width = min(search["k"], len(index))
            np.testing.assert_allclose(
                scores[:, :width], everything[:, :width], rtol=1e-5
            )


# Files and the command line


@amounts(6, 100)
def test_damaged_model_files_load_as_they_were_or_not(
    examples, model, tmp_path
):
    path = tmp_path / "model.keras"
    model.save(path)
    expected = model.recommend(["ann", "bob", "cid"], k=3)

    @fuzz(examples, damaged=damages(path.read_bytes()))
    def case(damaged):
        path.write_bytes(damaged)
        loaded, _ = ends_well(kdr.TwoTowerRetrieval.load, path)
        if loaded is not None:
            ids, scores = loaded.recommend(["ann", "bob", "cid"], k=3)
            np.testing.assert_array_equal(ids, expected[0])
            np.testing.assert_array_equal(scores, expected[1])


@amounts(6, 120)
def test_command_lines_end_in_one_line(examples, model, tmp_path, capsys):
    path = tmp_path / "model.keras"
    model.save(path)
    other = tmp_path / "other.keras"
    other.write_bytes(b"PK no archive")
    rows = tmp_path / "rows.csv"
    rows.write_text("user,item\nann,tea\nbob,7\nann,7\n")
    words = st.sampled_from(
        [
            *("recommend", "evaluate", "report", "devices", "nonsense"),
            *(str(path), str(other), str(tmp_path), "/no/such/file"),
            *("ann", "dee", "7", "-k", "0", "-1", "nan", "3", ""),
            *("--help", "--data-dir", "--split", "--seed", "--figure"),
            *("inspect", str(rows), "--interactions", "--users", "--history"),
            *("--filter", "item=7", "--output", str(tmp_path / "lists.csv")),
        ]
    )

    @fuzz(examples, argv=st.lists(words, max_size=6))
    def case(argv):
        try:
            status = cli.main(argv)
        except SystemExit as error:  # argparse has its own way out.
            status = error.code
        said = capsys.readouterr().err
        assert status in (0, 1, 2)
        assert "Traceback" not in said
        assert status != 1 or said.startswith("keras-dp-retrieval: ")
