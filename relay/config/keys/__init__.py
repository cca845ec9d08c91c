"""The keys of each table of the file: type, default, meaning; what they say about each other; what they become."""
