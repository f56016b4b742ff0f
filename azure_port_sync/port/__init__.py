"""Telling Port: the events that the guide's mapping understands, a sink that sends them, and the delivery of a set.

And asking it: the REST API says what Port really holds.
"""

from azure_port_sync.port.api import PortApi
from azure_port_sync.port.blueprints import BLUEPRINTS
from azure_port_sync.port.delivery import DeliveryReport, deliver
from azure_port_sync.port.webhook import WebhookSink

__all__ = ["BLUEPRINTS", "DeliveryReport", "PortApi", "WebhookSink", "deliver"]
