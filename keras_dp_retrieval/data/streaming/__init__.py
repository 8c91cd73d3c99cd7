"""More than memory: Parquet files as batches, one block of rows at a time."""
