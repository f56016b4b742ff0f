"""Telling Port: the events that the guide's mapping understands, a sink that sends them, and the delivery of a set."""

from azure_port_sync.port.delivery import DeliveryReport, deliver
from azure_port_sync.port.webhook import WebhookSink

__all__ = ["DeliveryReport", "WebhookSink", "deliver"]
