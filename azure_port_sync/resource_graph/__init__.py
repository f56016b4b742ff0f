"""The Azure edge: queries (`kql`) go out one at a time (`client`, `quota`, `failures`), results come in whole (`parts`),
and their rows become observations (`rows`). `reads` has the reads that a run makes.
"""

from azure_port_sync.resource_graph.client import ResourceGraph
from azure_port_sync.resource_graph.reads import AzureReader, ReadResult

__all__ = ["AzureReader", "ReadResult", "ResourceGraph"]
