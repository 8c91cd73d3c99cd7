"""The command line on a file of one's own: from raw rows to titles."""

import contextlib
import csv
import io
import json
import re

import keras
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import keras_dp_retrieval as kdr
from keras_dp_retrieval import cli
from keras_dp_retrieval.cli import (
    data_arguments,
    inputs,
    recommend_command,
)

NUM_USERS, NUM_PRODUCTS = 24, 18


def write_shop(folder):
    """Events of a shop, and what it sells: `B01` to `B18`, one untitled."""
    rng = np.random.default_rng(0)
    rows = [["customer", "product", "event", "time"]]
    for number in range(600):
        rows.append(
            [
                f"ann{rng.integers(1, NUM_USERS + 1):02}",
                f"B{rng.integers(1, NUM_PRODUCTS + 1):02}",
                ["view", "purchase", "purchase"][number % 3],
                f"2026-03-{1 + number // 20:02}T12:00:{number % 60:02}",
            ]
        )
    with open(folder / "shop.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    titles = [["product", "name"]]
    titles += [[f"B{n:02}", f"Tea, no. {n}"] for n in range(1, NUM_PRODUCTS)]
    with open(folder / "products.csv", "w", newline="") as file:
        csv.writer(file).writerows(titles)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder with the shop's files, and a model that was trained on them."""
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, patched_devices(patch):
        patch.chdir(folder)
        with contextlib.redirect_stdout(said):
            status = cli.main(
                [
                    *("train", "--interactions", "shop.csv"),
                    *("--candidates", "products.csv"),
                    *("--filter", "event=purchase", "--repeated", "last"),
                    *("--objective", "full_softmax", "--epochs", "2"),
                    *("--embedding-dimension", "4"),
                ]
            )
    assert status == 0
    (folder / "said.txt").write_text(said.getvalue())
    return folder


@contextlib.contextmanager
def patched_devices(patch):
    """One device: what is tested here depends on no number of them."""

    def one_device():
        devices = keras.distribution.list_devices()[:1]
        distribution = keras.distribution.DataParallel(devices=devices)
        keras.distribution.set_distribution(distribution)
        return distribution

    patch.setattr(kdr, "data_parallel", one_device)
    yield
    keras.distribution.set_distribution(None)


@pytest.fixture
def model(shop):
    return kdr.TwoTowerRetrieval.load(shop / "model.keras")


def run(capsys, *arguments):
    """What a command prints; it ends well."""
    status = cli.main(list(map(str, arguments)))
    said = capsys.readouterr()
    assert status == 0, said.err
    return said.out


def error_of(capsys, *arguments):
    """What a command says that ends with 1, in a line."""
    assert cli.main(list(map(str, arguments))) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"keras-dp-retrieval: .+\n", said)
    return said


def metrics_in(text):
    return dict(re.findall(r"^  (\w+) +([\d.]+)$", text, re.M))


# Training


def test_training_says_what_it_found_and_chose(shop):
    said = (shop / "said.txt").read_text()
    assert "interactions of shop.csv: 24 users, 18 candidates\n" in said
    assert "found user_column='customer', candidate_column='product'" in said
    assert "filters kept 400 of 600 rows" in said
    assert re.search(r"\d+ repeated pairs merged \('last'\)", said)
    assert "titles of 17 of 18 candidates" in said
    assert "split 'by_time'" in said
    assert "split by time, as there are timestamps" in said


def test_own_data_have_all_that_movielens_has(shop, model):
    said = (shop / "said.txt").read_text()
    assert metrics_in(said).keys() >= {"ndcg_at_10", "recall_at_20"}
    (user,) = re.findall(r"Recommended for user (ann\d\d):", said)
    listed = re.findall(r"^ +\S+ +(B\d\d)(?:  (Tea, no. \d+))?$", said, re.M)
    ids, _ = model.recommend([user], k=10)
    assert [one for one, _ in listed] == [one for one in ids[0] if one]
    assert all(
        title == model.candidate_titles.get(one, "") for one, title in listed
    )
    assert len(model.candidate_titles) == 17
    assert "movie" not in said.lower()
    assert "Saved model.keras (" in said


def test_only_the_rows_that_were_asked_for_are_learned_from(shop, model):
    with open(shop / "shop.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["event"] != "view"]
    last = {(row["customer"], row["product"]): row["time"] for row in rows}
    assert model.trained_on["data"] == f"{len(last)} interactions of shop.csv"
    times = sorted(last.values())
    # By time: a fifth is test, a tenth of the rest validation.
    num_test = sum(t >= times[-round(len(times) / 5)] for t in times)
    rest = times[: len(times) - num_test]
    num_validation = sum(t >= rest[-round(len(rest) / 10)] for t in rest)
    num_train = len(rest) - num_validation
    assert f"{num_train} train" in (shop / "said.txt").read_text()


# Evaluation


@pytest.mark.parametrize(
    "more",
    [
        (),  # The model knows how the file was read.
        ("--filter", "event=purchase", "--repeated", "last", "--seed", "42"),
    ],
)
def test_evaluating_the_file_gives_the_figures_of_training(shop, more, capsys):
    said = run(
        capsys,
        *("evaluate", shop / "model.keras"),
        *("--interactions", shop / "shop.csv", *more),
    )
    trained = metrics_in((shop / "said.txt").read_text())
    assert metrics_in(said) == trained
    assert "filters kept 400 of 600 rows" in said


def test_evaluating_without_the_file_names_it(shop, capsys):
    for more in ((), ("--version", "100k")):
        said = error_of(capsys, "evaluate", shop / "model.keras", *more)
        assert "`--interactions shop.csv`" in said


@pytest.mark.filterwarnings("ignore:.*older than the newest")
def test_another_split_is_refused(shop, capsys):
    command = ("evaluate", shop / "model.keras")
    command += ("--interactions", shop / "shop.csv", "--split", "random")
    said = error_of(capsys, *command)
    assert re.search(r"\d+ of the \d+ interactions .* were trained on", said)
    assert "pass `--allow-trained`." in said


# Recommendations


def test_users_and_histories_get_titles(shop, model, capsys):
    said = run(capsys, "recommend", shop / "model.keras", "ann01", "-k", 2)
    (ids,), _ = model.recommend(["ann01"], k=2)
    for one in ids:
        assert f"{one}  {model.candidate_titles.get(one, '')}".rstrip() in said


def test_somebody_new_is_asked_for_by_a_history(tmp_path, capsys):
    pairs = [(user, (user * k) % 13) for user in range(9) for k in (1, 2, 5)]
    data = kdr.RetrievalDataset.from_interactions(
        *zip(*pairs, strict=True), test_fraction=0
    )
    tower = kdr.IdHistoryTower(data.num_users, data.num_candidates, 4)
    model = kdr.TwoTowerRetrieval.for_dataset(data, 4, user_tower=tower)
    model.build()
    model.save(tmp_path / "m.keras")
    command = ("recommend", tmp_path / "m.keras", "--history", 3, 7, 1)
    said = run(capsys, *command, "-k", 2)
    (ids,), (scores,) = model.recommend(histories=[[3, 7, 1]], k=2)
    listed = re.findall(r"^ +([-\d.]+) +(\d+)$", said, re.M)
    assert [(float(score), int(one)) for score, one in listed] == [
        (pytest.approx(float(score), abs=1e-3), one)
        for one, score in zip(ids, scores, strict=True)
    ]
    run(capsys, *command, "--output", tmp_path / "new.jsonl")
    rows = map(json.loads, (tmp_path / "new.jsonl").read_text().splitlines())
    assert {(row["user_id"], row["source"]) for row in rows} == {
        (None, "history")
    }
    # Items that nobody had count for nothing, which is said.
    more = run(capsys, *command[:3], 99, *command[3:], 98, "-k", 2)
    note, rest = more.split("\n", 1)
    assert rest == said
    assert note.startswith("Note: 2 of 5 ids of the history are not known to")
    assert note.endswith("skipped: 99, 98.")
    note, rest = run(capsys, *command[:3], 99, "-k", 2).split("\n", 1)
    assert note.endswith("skipped: 99; the list is what is popular.")
    (ids,), _ = model.recommend(histories=[[]], k=2, unknown="popular")
    assert re.findall(r"^ +[-\d.]+ +(\d+)$", rest, re.M) == list(map(str, ids))
    assert "candidate ids are whole numbers. Received: 'x'" in error_of(
        capsys, "recommend", tmp_path / "m.keras", "--history", "x"
    )


def rows_of(path):
    """Rows of a file of lists, with numbers as numbers."""
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    with open(path, newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file]
        return [
            {
                **row,
                "title": row["title"] or None,
                "rank": int(row["rank"]),
                "score": float(row["score"]),
            }
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_files_hold_what_the_model_recommends(
    suffix, shop, model, monkeypatch, tmp_path, capsys
):
    sizes = []
    recommend = kdr.TwoTowerRetrieval.recommend

    def counted(self, users, **kwargs):
        sizes.append(len(users))
        return recommend(self, users, **kwargs)

    monkeypatch.setattr(kdr.TwoTowerRetrieval, "recommend", counted)
    monkeypatch.setattr(recommend_command, "_MOST_USERS", 2)
    users = ["ann07", "ann02", "ann19"]
    (tmp_path / "users").write_text("\n".join([*users, "ann07", ""]))
    path = tmp_path / f"lists{suffix}"
    # More than there are: what fills up a list is no recommendation.
    command = ("recommend", shop / "model.keras", "-k", NUM_PRODUCTS)
    command += ("--users", tmp_path / "users", "--output", path)
    said = run(capsys, *command)
    assert "1 repeated ids" in said
    assert sizes == [2, 1]
    parts = users[:2], users[2:]
    lists = [recommend(model, part, k=NUM_PRODUCTS) for part in parts]
    ids, scores = map(np.concatenate, zip(*lists, strict=True))
    expected = [
        {
            "user_id": user,
            "rank": rank,
            "candidate_id": str(one),
            "title": model.candidate_titles.get(one),
            "score": score,
            "source": "model",
        }
        for user, of_user, their_scores in zip(users, ids, scores, strict=True)
        for rank, (one, score) in enumerate(
            zip(of_user, their_scores, strict=True), 1
        )
        if np.isfinite(score)
    ]
    rows = rows_of(path)
    assert len(rows) < 3 * NUM_PRODUCTS
    for row in rows:
        row["score"] = np.float32(row["score"])
    assert rows == expected
    assert f"{len(rows)} candidates for 3 users" in said


def test_a_file_of_lists_is_replaced_when_it_is_whole(
    shop, monkeypatch, tmp_path, capsys
):
    path = tmp_path / "lists.csv"
    path.write_text("older lists")
    command = ("recommend", shop / "model.keras", "--output", path)
    monkeypatch.setattr(recommend_command, "_MOST_USERS", 1)
    recommend, calls = kdr.TwoTowerRetrieval.recommend, []

    def breaks(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return recommend(*args, **kwargs)

    monkeypatch.setattr(kdr.TwoTowerRetrieval, "recommend", breaks)
    assert cli.main([*map(str, command), "ann01", "ann02"]) == 130
    assert path.read_text() == "older lists"
    assert [one.name for one in tmp_path.iterdir()] == ["lists.csv"]


def test_users_of_whom_nothing_is_known_get_what_is_popular(
    shop, model, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(recommend_command, "_MOST_USERS", 2)
    users = ["bob", "ann02", "cid"]
    command = ("recommend", shop / "model.keras", "-k", 3, *users)
    said = run(capsys, *command)
    assert re.findall("Note: .*", said) == [
        "Note: 2 of 3 users are not known to the model and get what is "
        "popular: 'bob', 'cid'."
    ]
    lists = re.split("Recommended for .*:", said)[1:]
    listed = [re.findall(r"B\d\d", text) for text in lists]
    ids, _ = model.recommend(users, k=3, unknown="popular")
    assert listed == ids.tolist()
    assert listed[0] == listed[2]
    counts = np.asarray(model.candidate_counts)
    most = counts[model.candidate_vocabulary.rows(ids[0])]
    assert most.tolist() == sorted(counts[1:].tolist())[:-4:-1]
    run(capsys, *command, "--output", tmp_path / "lists.csv")
    rows = rows_of(tmp_path / "lists.csv")
    assert [row["source"] for row in rows[::3]] == [
        *("popular", "model", "popular")
    ]
    assert rows[0]["score"] == pytest.approx(np.log1p(most[0]))


@pytest.mark.parametrize("output", ["lists.txt", "lists", ".csv", "no/l.csv"])
def test_a_file_that_cannot_be_written_is_refused_at_once(
    output, shop, monkeypatch, tmp_path, capsys
):
    def load(*_):
        pytest.fail("The options were not checked first.")

    monkeypatch.setattr(inputs, "load_model", load)
    monkeypatch.chdir(tmp_path)
    command = ("recommend", shop / "model.keras", "ann01", "--output", output)
    assert "`--output` must be" in error_of(capsys, *command)


# Inspection


@pytest.mark.filterwarnings("ignore:.*also in the train part")
def test_inspection_describes_the_file_and_what_training_would_do(
    shop, tmp_path, capsys
):
    figure = tmp_path / "shop.png"
    said = run(
        capsys,
        *("inspect", "--filter", "event=purchase", "--figure", figure),
        shop / "shop.csv",
    )
    assert said.startswith("400 interactions of shop.csv\n")
    data = kdr.RetrievalDataset.from_csv(
        shop / "shop.csv",
        user_column="customer",
        candidate_column="product",
        timestamp_column="time",
        filters={"event": "purchase"},
        split="by_time",
    )
    described = str(data.describe()).split("\n\n", 1)[1]
    assert data_arguments.in_flags(described) in said
    assert str(kdr.recipe.plan_recipe(data)) in said
    assert figure.stat().st_size > 10_000


def test_inspection_without_a_file_is_of_movielens(capsys):
    command = ("inspect", "--source", "synthetic", "--split", "tutorial")
    said = run(capsys, *command)
    assert said.startswith("MovieLens 100k (synthetic) (SYNTHETIC data)")
    assert "Validation and test are the same rows." in said
    assert "`--split by_time` does." in said
    assert "order='ignored'" in said


# What is wrong with the data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--user-column", "buyer"),
            r"Missing: \['buyer'\]\. There are: \['customer', .*"
            r"`--user-column \.\.\.`",
        ),
        (("--filter", "kind=a"), r"Missing: \['kind'\].* Correct `--filter`"),
        (("--filter", "event=buy"), r"`--filter` must leave at least one row"),
        (("--filter", "event>buy"), r"a number or an ISO date\. .*'buy'"),
        (
            ("--candidates", "shop.csv"),
            r"one of titles\. Missing: \['title'\].*`--title-column \.\.\.`",
        ),
        (
            ("--candidates", "products.csv", "--title-column", "brand"),
            r"Missing: \['brand'\]\. There are: \['product', 'name'\]",
        ),
        (
            ("--timestamp-column", "none", "--split", "by_time"),
            r"`--split by_time` needs timestamps.*`--timestamp-column \.\.\.`",
        ),
        (("--rating-column", "event"), r"'event' must hold numbers"),
        (("--objective", "rating"), r"learns from ratings.*`--rating-column"),
        (("--split", "tutorial"), r"`--split tutorial` is for the 100,000"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*also in the train part")
def test_what_does_not_fit_is_said_in_flags(
    options, message, shop, monkeypatch, capsys
):
    monkeypatch.chdir(shop)
    said = error_of(capsys, "train", "--interactions", "shop.csv", *options)
    assert re.search(message, said), said
    assert "=..." not in said


def test_a_search_takes_the_file(shop, monkeypatch, capsys):
    from keras_dp_retrieval import tuning

    searched = []

    def search(data, **_):
        searched.append(data)
        raise ValueError("enough")

    monkeypatch.setattr(tuning, "search", search)
    command = ("tune", "--interactions", shop / "shop.csv")
    command += ("--timestamp-column", "none", "--repeated", "first")
    assert "enough" in error_of(capsys, *command)
    (data,) = searched
    assert data.split == "random" and data.num_candidates == 19


# Features


def write_features(folder):
    """What is known of customers and products; nobody has `B00`."""
    users = [["customer", "country"]]
    users += [[f"ann{n:02}", ["GB", "SE"][n % 2]] for n in range(1, 25)]
    items = [["item_id", "kind", "price"]]
    items += [[f"B{n:02}", f"kind {n % 3}", n] for n in range(19)]
    for name, rows in (("users", users), ("items", items)):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)


@pytest.mark.slow
def test_towers_learn_from_files_of_features(
    shop, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_features(tmp_path)
    data = ("--interactions", shop / "shop.csv", "--repeated", "last")
    of_users = ("--user-features", "users.csv")
    features = (*of_users, "--candidate-features", "items.csv")
    with patched_devices(monkeypatch):
        said = run(
            capsys,
            *("train", *data, *features, "--objective", "full_softmax"),
            *("--epochs", "1", "--embedding-dimension", "4"),
        )
    model = kdr.TwoTowerRetrieval.load("model.keras")
    assert list(model.user_features.schema.encoders) == ["country"]
    assert list(model.candidate_features.schema.encoders) == ["kind", "price"]
    assert isinstance(model.user_tower, kdr.FeatureTower)
    assert (
        "features of 24 users: country (categorical, 2); 4 bytes each" in said
    )
    assert "B00" in model.retrievable_ids()
    evaluated = run(capsys, "evaluate", "model.keras", *data, *features)
    assert metrics_in(evaluated) == metrics_in(said)
    assert "users and candidates of the test part" in evaluated
    # Without the products, B00 is no id of the data.
    wrong = error_of(capsys, "evaluate", "model.keras", *data, *of_users)
    assert wrong.endswith("as then, with `--candidate-features FILE`.\n")


@pytest.mark.filterwarnings("ignore:.*also in the train part")
def test_inspection_and_search_take_files_of_features(
    shop, tmp_path, monkeypatch, capsys
):
    from keras_dp_retrieval import tuning

    searched = []

    def search(data, **options):
        searched.append((data, options))
        raise ValueError("enough")

    monkeypatch.setattr(tuning, "search", search)
    monkeypatch.chdir(tmp_path)
    write_features(tmp_path)
    options = ("--candidate-features", "items.csv", "--split", "by_time")
    shop_file = shop / "shop.csv"
    towers = ("--hidden-width", "8", "16", "--id-dropout", "0", "0.5")
    assert "enough" in error_of(
        capsys, "tune", "--interactions", shop_file, *options, *towers
    )
    ((data, asked),) = searched
    assert asked["hidden_width"] == [8, 16]
    assert asked["id_dropout"] == [0.0, 0.5]
    assert data.candidate_features.num_rows == NUM_PRODUCTS + 2
    assert data.user_features is None
    said = run(capsys, "inspect", shop_file, *options)
    assert "\nfeatures of 19 candidates: kind (categorical, 3), price" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--user-features", "nowhere.csv"),
            r"`--user-features` must be a file or folder that exists",
        ),
        (
            ("--user-features", "items.csv"),
            r"one column with the ids of the users\. .*`--user-column NAME`",
        ),
        (
            ("--candidate-features", "twice.csv"),
            r"`--candidate-features` must have one row for each id\. .*'B01'",
        ),
        (
            ("--candidate-features", "lengths.csv"),
            r"'length'\]\. Leave them out of the file, or rename them\.$",
        ),
        (
            ("--candidate-features", "seconds.parquet"),
            r"duration\[s\]\. Leave it out of the file\.$",
        ),
        (
            ("--candidate-features", "broken.parquet"),
            r"'broken.parquet' must be a CSV file in UTF-8 .* or a Parquet",
        ),
        (("--features",), r"and `--features` of MovieLens"),
    ],
)
def test_features_are_checked_before_the_interactions(
    options, message, shop, tmp_path, monkeypatch, capsys
):
    def read(*_, **__):
        pytest.fail("The features were not checked first.")

    monkeypatch.setattr(inputs, "dataset_from_file", read)
    monkeypatch.chdir(tmp_path)
    write_features(tmp_path)
    (tmp_path / "twice.csv").write_text("item_id,kind\nB01,a\nB01,b\n")
    (tmp_path / "lengths.csv").write_text("item_id,length\nB01,3\n")
    seconds = pyarrow.array([3], pyarrow.duration("s"))
    parquet.write_table(
        pyarrow.table({"item_id": ["B01"], "x": seconds}), "seconds.parquet"
    )
    (tmp_path / "broken.parquet").write_text("no parquet")
    for command in ("train", "tune", "inspect"):
        shop_file = (shop / "shop.csv",)
        if command != "inspect":
            shop_file = ("--interactions", *shop_file)
        said = error_of(capsys, command, *shop_file, *options)
        assert re.search(message, said), said


def test_features_of_movielens_are_asked_for_with_a_flag(monkeypatch, capsys):
    asked = []

    def movielens(version, **options):
        asked.append(options)
        raise ValueError("enough")

    monkeypatch.setattr(kdr, "MovieLensRetrievalDataset", movielens)
    for flags in ((), ("--features",)):
        assert "enough" in error_of(capsys, "train", *flags)
    assert [options["features"] for options in asked] == [False, True]
    command = ("train", "--features", "--source", "synthetic")
    assert "`--features` needs MovieLens itself" in error_of(capsys, *command)
    said = error_of(capsys, "train", "--user-features", "users.csv")
    assert "`--user-features` must come with a file of interactions" in said


@pytest.mark.filterwarnings("ignore:.*also in the train part")
def test_ids_have_one_name_among_interactions_and_features(
    shop, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write_features(tmp_path)
    for path in (shop / "shop.csv", tmp_path / "users.csv"):
        renamed = path.read_text().replace("customer", "buyer", 1)
        (tmp_path / path.name).write_text(renamed)
    said = run(
        capsys,
        *("inspect", "shop.csv", "--user-column", "buyer"),
        *("--user-features", "users.csv"),
    )
    assert (
        "\nfeatures of 24 users: country (categorical, 2); 4 bytes each" in said
    )
