"""Benchmarks run, in the smallest sizes: what is not run for months rots.

No assertion on what they measure. Those of one part alone (the server, a GPU,
Orbax, large catalogues, what needs other environments) are not among them.
"""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"
COMMANDS = """
bench_callback_overhead.py --pairs 2 --epochs 1
bench_evaluation.py --repeats 1
bench_first_command.py --rounds 1 --help-rounds 1
bench_full_softmax.py --candidates 2000 --batch 8 --positives 2 --repeats 1
bench_heavy_user.py --users 200 --candidates 2000 --batch 32 --repeats 2
bench_new_day.py --rows 5000 --day 500 --days 1 --steps 2 --batch-size 64
bench_readers.py --rows 2000 --rounds 1
bench_resume.py --rows 2000 --seconds 1 --pairs 1
bench_row_sparse.py --num-rows 1000 --steps 2 --rounds 1 --batch-size 64
bench_saving.py --users 1000 --candidates 500 --dim 8 --interactions 5000
bench_streaming.py --rows 20000 --readers ours arrow
bench_topk.py --num-candidates 2000 --rounds 1
bench_tuning.py --devices 2 --trials 6 --epochs 1
bench_tutorial_recipe.py --rounds 1 --epochs 1 --devices 1
profile_epoch.py --rounds 1 --epochs 2 --devices 2
"""


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.strip().splitlines())
def test_it_runs(command, tmp_path):
    script, *options = shlex.split(command)
    done = subprocess.run(
        [sys.executable, FOLDER / script, *options],
        cwd=tmp_path,
        env={
            name: value
            for name, value in os.environ.items()
            # Made-up data, and devices by their own choice.
            if name not in ("KDR_DATA_DIR", "XLA_FLAGS")
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
