"""The README's Python examples run, in order, as one program."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"


def examples():
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.S)


@pytest.mark.realdata
def test_examples_run(data_dir, tmp_path):
    program = "\n".join(examples())
    assert "MovieLensRetrievalDataset(" in program
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=tmp_path,
        # Where the example would download, TFDS finds the prepared copy.
        env={**os.environ, "TFDS_DATA_DIR": str(data_dir / "tfds")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
