"""Telling Port: the events that a webhook's mapping understands, three ways to send them, the delivery of a change set.

And asking it: the REST API says what Port really holds, and takes the data model.
"""

from azure_port_sync.port.api import PortApi
from azure_port_sync.port.api_sink import ApiSink
from azure_port_sync.port.blueprints import BLUEPRINTS
from azure_port_sync.port.delivery import DeliveryReport, deliver
from azure_port_sync.port.webhook import WebhookBatchSink, WebhookSink

__all__ = ["BLUEPRINTS", "ApiSink", "DeliveryReport", "PortApi", "WebhookBatchSink", "WebhookSink", "deliver"]
