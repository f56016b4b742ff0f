"""The Port edge: the events that a webhook's mapping understands, the ways to send them, and Port's REST API."""

from typing import Any

#: An object in Port's own format.
Json = dict[str, Any]
