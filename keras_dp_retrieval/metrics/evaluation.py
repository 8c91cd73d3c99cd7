"""Exact evaluation over the whole catalogue, in bounded memory.

Everything derives from one list per user: the candidates with the highest
scores among those the user has not seen yet. The metrics are summed over users
and divided once at the end, so that the result does not depend on how users
were divided over devices and processes.
"""

from collections.abc import Callable, Sequence

from keras_dp_retrieval.data.sampled_users import of_some_users
from keras_dp_retrieval.metrics.evaluated_data import check_data
from keras_dp_retrieval.metrics.protocol import check_protocol
from keras_dp_retrieval.metrics.ranking_task import (
    CANDIDATE_CHUNK_SIZE,
    USER_CHUNK_SIZE,
    RankingTask,
)


def evaluate(
    model,
    data,
    split: str = "test",
    ks: Sequence[int] = (10, 20),
    *,
    vectors: Callable | None = None,
    allow_trained: bool = False,
    cold: bool = False,
    max_users: int | None = None,
    seed: int = 0,
    user_chunk_size: int = USER_CHUNK_SIZE,
    candidate_chunk_size: int = CANDIDATE_CHUNK_SIZE,
) -> dict[str, float]:
    """Ranks the whole catalogue for every user and compares with a split.

    Exact: no sampled negatives. A user is everyone with at least one rating in
    `split`, and every rating there counts as relevant, whatever its value. The
    user's list is the best of all real candidates, by falling dot product and
    equal scores by rising row, without the user's seen items
    (`data.seen_before(split)`).

    Means over users, for each `k` of `ks`:

    - `recall_at_k`, `ndcg_at_k`, `mrr_at_k`, `hit_rate_at_k` and
      `precision_at_k`, as defined by the functions of these names.

    Over all lists together:

    - `coverage_at_k`: the share of the real candidates that are among the
      first `k` of at least one user (Herlocker et al., Evaluating
      collaborative filtering recommender systems, ACM TOIS 22(1), 2004).
    - `popularity_percentile_at_k`: the mean of `popularity_percentiles` of the
      training counts among the real candidates, over all recommendations. 0.5
      is what recommending at random gives, near 1 only the most popular is
      shown. NaN where nobody was recommended anything.

    And `num_users`, how many users the means are over.

    Held-out candidates count once per user, however often they were rated.
    All of them count in the denominators, also those that cannot be found:
    candidates seen before (only data with repeats has such) and
    unknown ones (row 0). Lists never hold the same candidate twice.

    With `cold=True` the same for users and candidates that training has, the
    warm ones, and those it has not, the cold ones: without an interaction in
    the train part of `data`, whatever they have in its validation part. The
    means over users get these names, such as `cold_users_recall_at_10`:

    - `warm_users_...`, `cold_users_...`: over the users of one kind, all their
      held-out candidates.
    - `warm_candidates_...`, `cold_candidates_...`: of the same lists of the
      whole catalogue, but the held-out candidates of one kind alone are
      relevant, also in the denominators; over the users who have some. A
      candidate of the other kind takes a place in the list and is no hit.
      `..._coverage_at_k` is the share of the real candidates of this kind
      that are among the first `k` of at least one user.
    - `cold_among_cold_...`: likewise of cold candidates, and the lists are of
      cold candidates alone: does the model tell them apart? The catalogue is
      not scored for it once more.

    And how many users these are, `num_warm_users`, `num_cold_users`,
    `num_users_of_warm_candidates`, `num_users_of_cold_candidates` (of
    `cold_among_cold_`, too), and real candidates, `num_warm_candidates`,
    `num_cold_candidates`. Where there are none, means and coverage are NaN and
    the number is 0; the names are always the same. Unknown candidates are cold
    unless row 0 is in the train part.

    A cold user's vector is what the model gives for the user's row, as
    `model.recommend(user_ids)` does: of a `TwoTowerRetrieval` with features of
    users these beside an id that was never trained, with a tower of histories
    that of an empty one (or of what the validation part has, where histories
    come with the users), and else a row of random numbers: then compare with
    `recommend(unknown="popular")`. A cold candidate of a `TwoTowerRetrieval`
    without features of candidates is in no list.

    The score matrix is never held as a whole: memory beyond the two tables of
    vectors is bounded by `user_chunk_size x candidate_chunk_size` numbers.
    Under a `keras.distribution.DataParallel` each device ranks its share of
    the users; several processes share the users too, and all of them must
    call, and get the same result.

    Any model can be evaluated, on any batches of users and candidates:

    ```python
    data = kdr.RetrievalDataset.from_batches(train_ratings, test=test_ratings)
    kdr.evaluate(
        model,
        data,
        vectors=lambda model: (
            model.user_embedding,
            model.candidate_embedding.embeddings,
        ),
    )
    ```

    Args:
        model: Anything with the methods `user_vectors(user_rows)`, or
            `encode_users(user_rows)` where there is none, -> `(batch, dim)`,
            and `candidate_vectors()` -> `(num_candidates, dim)`: tensors whose
            dot products are the scores. `user_rows` are int32 `(batch,)`. If
            it also has `retrievable_mask()` -> bool `(num_candidates,)`, no
            list holds the others; where they were held out they are misses.
            If its `needs_histories` is True, users are `{"user_id": (batch,),
            "history": (batch, length)}`: with what they have before the
            split, of streamed data at most `max_history` of the latest.
        data: A data set of this package; `RetrievalDataset.from_batches`
            makes one of batches or arrays. From any other object the
            evaluation needs `ratings(split)`, `seen_before(split)`,
            `num_candidates`, `candidate_counts("train")` and, where not all
            rows are real candidates, `candidate_vocabulary` or
            `real_candidates`, bool `(num_candidates,)`; with `cold=True`,
            `user_counts("train")` or all of `ratings("train")`.
        split: str. `"test"`, `"validation"` or `"train"`.
        ks: ints. Lengths of the lists; may exceed the catalogue.
        vectors: Optional function for a model without these methods: given
            the model, it returns `(encode_users, candidate_vectors)`, a
            function from user rows to `(batch, dim)` and the vectors
            `(num_candidates, dim)`.
        allow_trained: bool. Whether the split may hold interactions that the
            model was trained on, as it does when the data were split in
            another way then. A `TwoTowerRetrieval` made `for_dataset` knows.
            Interactions that the data set's own train part repeats are no
            reason to refuse: they are left out of the lists.
        cold: bool. Whether to add what is said above of warm and cold ones.
        max_users: Optional int. Evaluates so many users at most, drawn at
            random; by default all. Of streamed data the files are read once,
            for what these users have in the split and before it.
        seed: int. Of that draw: the same users for every model.
        user_chunk_size: int. Users ranked at a time, over all devices.
        candidate_chunk_size: int. Candidates scored at a time.

    Returns:
        dict from metric name, such as `"recall_at_10"`, to float.

    Raises:
        TypeError: If the model has no such methods and there is no `vectors`.
        ValueError: If the split holds no ratings, the model has fewer
            candidate vectors than the data has rows, knows other ids, was
            trained on interactions of the split, or its vectors are NaN or
            infinite, as after a training that diverged.
    """
    check_protocol(model, vectors)
    check_data(data)
    data = of_some_users(data, split, max_users, seed)
    check = getattr(model, "check_evaluation", None)
    if check is not None:
        check(data, split, allow_trained=allow_trained)
    task = RankingTask.prepare(
        data,
        split,
        ks,
        cold=cold,
        user_chunk_size=user_chunk_size,
        candidate_chunk_size=candidate_chunk_size,
    )
    return task.run(model, vectors)
