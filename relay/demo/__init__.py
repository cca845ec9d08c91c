"""The page, its origin and the browser module."""
