"""Exact search among candidate vectors, and the index that is saved."""

from keras_dp_retrieval.index.candidate_index import CandidateIndex

__all__ = ["CandidateIndex"]
