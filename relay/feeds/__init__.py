"""Runs of resumable routes: where they are kept, who reads them, what a request for one gets."""
