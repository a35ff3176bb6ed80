"""The name under which the architecture documents' example imports the client."""

from app.client.wes_client import WesClient

__all__ = ["WesClient"]
