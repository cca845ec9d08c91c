"""relay: a streaming HTTP/1.1 relay on Trio and h11."""

__version__ = "0.1.0"
# What messages say of the way to install it, as the README says it to people: both change with the first release.
INSTALL = "pip install '.[{extra}]' in a checkout of relay"
