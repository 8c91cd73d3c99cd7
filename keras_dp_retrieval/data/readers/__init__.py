"""Files and frames in, columns of interactions out."""
