"""The Azure tenant behind the sandbox: what exists, and what Resource Graph shows of it and when.

Azure itself and its Resource Graph disagree for minutes at a time, and a synchroniser lives or dies by how it takes
that. So every row is a version with the span of time in which Resource Graph shows it, apart from whether it really
exists; and every change leaves a record that is published after a delay of its own.
"""

from azure_port_sync.sandbox.tenant.access import Scope
from azure_port_sync.sandbox.tenant.rows import GROUP, MANAGEMENT_GROUP, SUBSCRIPTION, TenantError
from azure_port_sync.sandbox.tenant.tenant import VERBS, Tenant

__all__ = ["GROUP", "MANAGEMENT_GROUP", "SUBSCRIPTION", "VERBS", "Scope", "Tenant", "TenantError"]
