"""Evaluation: collections, measures, records of evaluated runs, significance, and tables measured again."""
