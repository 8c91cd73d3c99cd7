"""TwoTowerRetrieval, and what it is made of."""

from keras_dp_retrieval.model.two_tower import TwoTowerRetrieval

__all__ = ["TwoTowerRetrieval"]
