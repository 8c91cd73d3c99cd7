"""Exact and approximate search among candidate vectors, and their indexes."""

from keras_dp_retrieval.index.candidate_index import CandidateIndex
from keras_dp_retrieval.index.faiss_index import FaissIndex
from keras_dp_retrieval.index.search_index import SearchIndex

__all__ = ["CandidateIndex", "FaissIndex", "SearchIndex"]
