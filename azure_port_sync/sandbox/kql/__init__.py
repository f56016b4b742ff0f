"""Runs the KQL that a client sends over the tenant's tables, and refuses what Resource Graph refuses.

The product's queries are half of its logic: a stand-in that only recognised them would prove nothing. They run on
duckdb-kql, which translates KQL to DuckDB's SQL. What this room adds is the difference between Kusto and Resource Graph
(its subset of operators and its errors), and shortcuts for what clients send again and again. Source:
learn.microsoft.com/azure/governance/resource-graph/concepts/query-language.
"""

from azure_port_sync.sandbox.kql.engine import QueryEngine, Result
from azure_port_sync.sandbox.kql.errors import QueryError
from azure_port_sync.sandbox.kql.subset import check
from azure_port_sync.sandbox.kql.text import tokenize

__all__ = ["QueryEngine", "QueryError", "Result", "check", "tokenize"]
