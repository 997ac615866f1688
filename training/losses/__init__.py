"""Losses of the published systems, as functions of scores; larger scores are better."""
