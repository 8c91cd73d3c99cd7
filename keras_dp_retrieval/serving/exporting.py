"""export_retrieval: all that other software needs to serve a model."""

import hashlib
import json
import os
import pathlib
import shutil
import uuid

import keras

from keras_dp_retrieval import _checks
from keras_dp_retrieval._version import __version__
from keras_dp_retrieval.index import CandidateIndex
from keras_dp_retrieval.index.faiss_kinds import faiss
from keras_dp_retrieval.model import TwoTowerRetrieval
from keras_dp_retrieval.serving import (
    export_proof,
    exported_indexes,
    exported_tables,
    exported_tower,
)

FORMATS = ("onnx", "saved_model", "parquet", "faiss")

# The number of the layout; it rises when readers of it must change.
FORMAT_VERSION = 1

MANIFEST = "manifest.json"


def export_retrieval(
    model, folder, *, formats=FORMATS, overwrite=False
) -> dict:
    """Writes a model for other software, and proves what was written.

    | file | what it holds |
    | --- | --- |
    | `manifest.json` | format, dimension, metric, recalls, checksums |
    | `encoders.json` | the inputs of the user tower, and how they are made |
    | `user_tower/user_tower.onnx` | the user tower for ONNX runtimes |
    | `user_tower/saved_model/` | the same for TensorFlow |
    | `user_tower/users.parquet` | known users: `id`, `row`, history, features |
    | `user_tower/candidate_rows.parquet` | `id`, `row`: what histories hold |
    | `candidates.parquet` | `id`, `vector`, `title`, features |
    | `candidates.npz` | the same for NumPy: `ids`, `vectors`, ... |
    | `index/flat.faiss`, `ivf.faiss`, `hnsw.faiss` | indexes of FAISS |
    | `index/ids.npy` | the id of each position in these |

    Then each is loaded in a process of its own that does not import this
    package, with ONNX Runtime, TensorFlow, Arrow or FAISS, and asked for the
    lists of known users, of histories that end before the last item, and of
    features, as far as the model takes them. Their ids must be those of
    `recommend` (at full precision, on accelerators, too), but for candidates
    whose scores differ by less than 1e-5 of the largest score of the list. Of
    the approximate indexes, whose scores must be right, too, the recall is in
    the manifest.

    The score of a user and a candidate is the inner product of their vectors,
    nothing else; with a `popularity_weight` the last coordinate is the bias.

    The folder is written beside its place, and renamed when all is proved.

    Example:

    ```python
    manifest = kdr.export_retrieval(model, "served")
    print(manifest["recalls"])  # {"hnsw": {"10": 0.998, "100": 0.991}, ...}
    ```

    Args:
        model: `TwoTowerRetrieval`, on the JAX backend for `"onnx"`.
        folder: Path of a folder that is not there yet.
        formats: Some of `"onnx"`, `"saved_model"`, `"parquet"` (and NumPy) and
            `"faiss"`. The first and the last need the extras `export` and
            `index`.
        overwrite: bool. Whether to replace an earlier export.

    Returns:
        dict, what is in `manifest.json`.

    Raises:
        ImportError: If an extra is not installed.
        FileExistsError: If the folder is there, unless `overwrite`; in any
            case, if it is no earlier export.
        ValueError: If the user tower takes other inputs than ids, histories
            or features, or `model` or `formats` is something else.
        RuntimeError: If what was written does not answer as the model does.
    """
    _checks.instance("model", model, TwoTowerRetrieval)
    _checks.flag("overwrite", overwrite)
    formats = _checked_formats(formats)
    target = pathlib.Path(_checks.path("folder", folder)).absolute()
    _check_target(target, overwrite)
    model.build()
    ids = model.retrievable_ids()
    if not len(ids):
        raise ValueError(
            "`model` must have candidates that can be recommended. Received: "
            "none, as before any training."
        )
    exact = CandidateIndex.from_vectors(ids, model.encode_candidates())
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    temporary.mkdir()
    try:
        manifest = _write(model, exact, formats, temporary)
        _rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _write(model, exact: CandidateIndex, formats, folder) -> dict:
    manifest: dict = {
        "format_version": FORMAT_VERSION,
        "keras_dp_retrieval": __version__,
        "formats": formats,
        "dimension": exact.embedding_dimension,
        "metric": "inner_product",
        "bias_coordinate": bool(model.popularity_weight),
        "num_candidates": len(exact),
    }
    exported_tables.write_encoders(model, folder / "encoders.json")
    if {"onnx", "saved_model"} & set(formats):
        (folder / "user_tower").mkdir()
        exported_tables.write_users(model, folder / "user_tower")
        exported_tower.write(model, formats, folder / "user_tower")
    if "parquet" in formats:
        exported_tables.write_candidates(model, exact, folder)
    if "faiss" in formats:
        manifest["indexes"] = exported_indexes.write(exact, folder / "index")
    manifest |= export_proof.prove(model, exact, formats, folder)
    manifest["checksums"] = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps(manifest, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return json.loads(text)


def _checked_formats(formats) -> list[str]:
    if not _checks.is_listed(formats) or not len(formats):
        raise ValueError(
            f"`formats` must be a list of some of {list(FORMATS)}. Received: "
            f"{_checks.shown(formats):.80}."
        )
    for one in formats:
        _checks.one_of("formats", one, FORMATS)
    if "onnx" in formats:
        exported_tower.check_onnx()
        if keras.backend.backend() != "jax":
            raise ValueError(
                "The format 'onnx' is written on the JAX backend. Received: "
                f"{keras.backend.backend()!r}. Set KERAS_BACKEND=jax."
            )
    if "faiss" in formats:
        faiss()
    return [one for one in FORMATS if one in formats]


def _check_target(target: pathlib.Path, overwrite: bool):
    if not os.path.lexists(target):
        return
    is_export = (target / MANIFEST).is_file()
    if not overwrite or not is_export:
        what = "an earlier export" if is_export else "something else"
        how = "`overwrite=True` replaces it" if is_export else "Name another"
        raise FileExistsError(
            f"`folder` must not be there yet. Received: {str(target)!r}, "
            f"{what}. {how}."
        )


def _rename(temporary: pathlib.Path, target: pathlib.Path):
    old = temporary.with_name(temporary.name + ".old")
    if target.exists():
        target.rename(old)
    temporary.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _sha256(path: pathlib.Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
