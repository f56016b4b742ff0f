"""Plays Port's REST API, as far as the product asks it: blueprints, webhooks, entities, and a token to ask with.

Shapes are those of Port's OpenAPI file (github.com/port-labs/port-docs, `static/apispec.yaml`), published limits those
of docs.port.io ("Rate limits"). Where both leave something open, the sandbox chooses what is harder on a client.
"""

from azure_port_sync.sandbox.rest.host import TOKEN_SECONDS, ResetForm, Rest, rest_app

__all__ = ["TOKEN_SECONDS", "ResetForm", "Rest", "rest_app"]
