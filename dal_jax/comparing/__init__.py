"""Losses compared over noises, swept settings and seeds: a directory, a run each."""
