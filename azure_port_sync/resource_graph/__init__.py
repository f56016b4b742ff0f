"""Reading Azure Resource Graph: queries, parts, quota, and the observations that come out of it."""

from azure_port_sync.resource_graph.client import ResourceGraph
from azure_port_sync.resource_graph.reads import AzureReader, ReadResult

__all__ = ["AzureReader", "ReadResult", "ResourceGraph"]
