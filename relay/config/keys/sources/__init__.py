"""The sources of a route, a module each: the plan, the keys that it is read from, what it says of itself.

What a source does stands in relay/sources, in the module of the same name; the list of all is config/keys/source_table.py.
"""
