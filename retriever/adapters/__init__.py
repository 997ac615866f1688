"""The engine in other people's frameworks; each file needs the extra of its name."""
