"""A web page to try a recoverer (extra `[app]`). All texts on it are escaped."""

from prompt_recovery.app.server import serve

__all__ = ["serve"]
