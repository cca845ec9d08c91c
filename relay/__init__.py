"""relay: a streaming HTTP/1.1 relay on Trio and h11."""

__version__ = "0.1.0"
