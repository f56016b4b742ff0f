"""The blueprints of the guide: under which names Port keeps the entities of each kind."""

from collections.abc import Mapping
from types import MappingProxyType

from azure_port_sync.core.kinds import Kind

BLUEPRINTS: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.SUBSCRIPTION: "azureSubscription",
        Kind.RESOURCE_GROUP: "azureResourceGroup",
        Kind.RESOURCE: "azureCloudResources",
    }
)
