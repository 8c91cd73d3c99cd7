"""The command line: parse, call, print. A command is a file of its own."""

from keras_dp_retrieval.cli.entry import main

__all__ = ["main"]
