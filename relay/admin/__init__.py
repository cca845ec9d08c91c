"""The admin listener: its page and figures, and how it reaches the workers."""
