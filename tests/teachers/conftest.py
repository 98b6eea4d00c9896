"""The endpoint that cold starts are tested against."""

from helpers.chat_server import server  # noqa: F401
