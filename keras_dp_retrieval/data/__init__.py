"""Interactions in, batches out."""
