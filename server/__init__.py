"""The HTTP service over one sealed index; `server.app.create_app` makes it."""
