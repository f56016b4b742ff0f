"""The Azure edge: queries go out one at a time and results come in whole.

`kql` writes the queries, `client` sends one (with `quota` and `failures`), `parts` reads results that one response does
not hold, `rows` makes observations of rows, and `reads` has the reads that a run makes.
"""

from azure_port_sync.resource_graph.client import ResourceGraph
from azure_port_sync.resource_graph.reads import AzureReader
from azure_port_sync.resource_graph.rows import ReadResult

__all__ = ["AzureReader", "ReadResult", "ResourceGraph"]
