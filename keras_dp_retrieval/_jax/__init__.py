"""The only code that imports jax: private, and imported where it is used."""
