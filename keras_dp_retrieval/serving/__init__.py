"""A server of recommendations with its page, and exports for other software."""
