"""What devices send each other, read off compiled programs that never run.

Shapes stand for arrays, so a step of 512 devices and a million rows is compiled
in seconds and in little memory. XLA divides a program among devices before it
knows what they are: the collectives are those of accelerators too, save what a
GPU's compiler joins into fewer, larger ones or sends while it computes.
"""

import dataclasses
import functools
import math
import re

import jax
import keras
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import keras_dp_retrieval as kdr
from keras_dp_retrieval._jax import ranking, train_functions
from keras_dp_retrieval.index.exact import top_k
from keras_dp_retrieval.metrics import ranker

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"(pred|bf|[a-z])(\d*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between all devices.

    Attributes:
        kind: str, one of `KINDS`.
        num_bytes: int. The size of its result on one device.
    """

    kind: str
    num_bytes: int


def in_program(compiled) -> list[Collective]:
    """The collectives of a compiled program, each as often as it stands there.

    Those inside a loop stand there once: a step has none.
    """
    return [
        Collective(match[2], _num_bytes(match[1]))
        for match in map(_COLLECTIVE.search, compiled.as_text().splitlines())
        if match
    ]


def _num_bytes(result: str) -> int:
    """The bytes of a result type such as `(f32[64,16]{1,0}, f32[])`."""
    total = 0
    for _, bits, shape in _ARRAY.findall(result):
        item = int(bits or 8) // 8  # A `pred` takes a byte.
        total += item * math.prod(int(n) for n in shape.split(",") if n)
    return total


def built_model(objective, num_rows, dim, updates):
    """A compiled `TwoTowerRetrieval` with its optimizer's slots, on one device.

    Made before there is a distribution: under one, each of 512 virtual devices
    would be given a copy of the tables.
    """
    model = kdr.TwoTowerRetrieval(
        num_rows,
        num_rows,
        dim,
        objective=objective,
        embedding_updates=updates,
    )
    model.compile(keras.optimizers.Adagrad(0.1))
    model.train_on_batch(*one_batch(8, np.zeros))
    return model


def one_batch(batch_size, make):
    """`(x, y, sample_weight)`; `make(shape, dtype)` makes the arrays."""
    ids = make((batch_size,), "int32")
    weights = make((batch_size,), "float32")
    return ids, {"movie_id": ids, "rating": weights}, weights


def state_of(model):
    """What a training step takes: lists of the arrays of the variables."""
    return tuple(
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    )


def training_step(model, batch_size, num_fused=None):
    """One training step, compiled for the devices of the distribution.

    With `num_fused`, as many in one program, as `fit` runs them.
    """
    mesh = _mesh()
    everywhere = NamedSharding(mesh, P())
    state = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=everywhere),
        state_of(model),
    )
    divided = NamedSharding(mesh, P("batch"))
    more = () if num_fused is None else (num_fused,)
    data = one_batch(
        batch_size,
        lambda shape, dtype: jax.ShapeDtypeStruct(
            (*shape, *more), dtype, sharding=divided
        ),
    )
    step = jax.jit(
        model.train_step
        if num_fused is None
        else functools.partial(train_functions.fused_steps(model), values=[]),
        donate_argnums=0,
        out_shardings=(None, jax.tree.map(lambda _: everywhere, state)),
    )
    return step.lower(state, data).compile()


def evaluation(num_users, num_candidates, dim, k=10, width=64):
    """The ranking of a chunk of users, whose rows are divided over devices."""
    mesh = ranking.local_mesh(keras.distribution.distribution().device_mesh)
    program = ranking.compiled_ranker(ranker.best_rows, mesh, k, 16_384)
    return program.lower(
        jax.ShapeDtypeStruct((num_users, dim), "float32"),
        jax.ShapeDtypeStruct((num_candidates, dim), "float32"),
        jax.ShapeDtypeStruct((num_users, width), "int32"),
        jax.ShapeDtypeStruct((num_candidates,), "bool"),
    ).compile()


def search(num_queries, num_candidates, dim, k=10):
    """An exact search, whose candidates are divided over the devices."""
    mesh = _mesh()
    arrays = (
        jax.ShapeDtypeStruct(
            (num_queries, dim), "float32", sharding=NamedSharding(mesh, P())
        ),
        jax.ShapeDtypeStruct(
            (num_candidates, dim),
            "float32",
            sharding=NamedSharding(mesh, P("batch")),
        ),
    )

    program = jax.jit(lambda queries, candidates: top_k(queries, candidates, k))
    return program.lower(*arrays).compile()


def _mesh():
    return keras.distribution.distribution().device_mesh.backend_mesh
