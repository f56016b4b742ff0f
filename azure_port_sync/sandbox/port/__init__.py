"""Plays Port: webhooks, the catalog behind them, and what an account holds that followed the guide.

Its REST API is the room beside.
"""

from azure_port_sync.sandbox.port.answers import Answer
from azure_port_sync.sandbox.port.entity import Json, RefusedError, iso
from azure_port_sync.sandbox.port.limits import Throttle
from azure_port_sync.sandbox.port.webhooks import MAX_BODY_BYTES, Port, Webhook, port_app

__all__ = ["MAX_BODY_BYTES", "Answer", "Json", "Port", "RefusedError", "Throttle", "Webhook", "iso", "port_app"]
