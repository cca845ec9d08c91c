"""Processes: one or many workers, what supervises them, and word to whoever started them."""
