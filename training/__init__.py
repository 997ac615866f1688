"""Recipes that make encoders and rerankers, on the sentence-transformers trainers."""
