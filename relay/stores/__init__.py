"""Where runs are kept so that they outlive their process: a directory, or Redis, behind one contract."""
