"""Lists the examples: `python -m keras_dp_retrieval.examples`."""

import ast
import pathlib


def main() -> None:
    """Prints the name of each, and the first line of its docstring."""
    print("Each runs as `python -m keras_dp_retrieval.examples.NAME`.\n")
    for path in sorted(pathlib.Path(__file__).parent.glob("[a-z]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        print(f"{path.stem:18} {(text or '').splitlines()[0]}")


if __name__ == "__main__":
    main()
