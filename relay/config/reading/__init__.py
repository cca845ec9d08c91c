"""How any table is read: texts to values by the kind of a key, places filled in, mistakes with their key and line."""
