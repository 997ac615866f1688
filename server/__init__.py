"""The HTTP service over one sealed index."""

from server.app import create_app
from server.settings import Settings

__all__ = ["Settings", "create_app"]
