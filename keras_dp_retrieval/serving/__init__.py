"""A server of recommendations over HTTP, and the page that it shows."""
