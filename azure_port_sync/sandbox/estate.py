"""A believable estate for the tenant, and the kind of changes that happen to one.

Catalogs break on names nobody thought of. So this made-up company has what real ones have: ids that each provider
spells its own way, spaces and brackets in names, tags in four alphabets and every casing, and tags that are missing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from azure_port_sync.sandbox.tenant import Tenant

_REGIONS = ("westeurope", "northeurope", "germanywestcentral", "eastus2", "japaneast", "swedencentral")

# (name, tags, management groups from the nearest to the farthest)
_SUBSCRIPTIONS: tuple[tuple[str, dict[str, str] | None, tuple[str, ...]], ...] = (
    ("Contoso Production", {"Environment": "Production", "BusinessUnit": "Retail"}, ("contoso-prod", "contoso")),
    ("Contoso Staging", {"environment": "staging"}, ("contoso-nonprod", "contoso")),
    ("Contoso Entwicklung (Köln)", {"umgebung": "Entwicklung"}, ("contoso-nonprod", "contoso")),
    ("Contoso Data & Analytics", {"owner": "data-platform", "cost center": "4711"}, ("contoso-prod", "contoso")),
    ("コントソ 日本", {"地域": "東京", "environment": "PRODUCTION"}, ("contoso-apac", "contoso")),
    ("Platform - Identity & Connectivity", None, ("contoso-platform", "contoso")),
)

_TEAMS = ("Checkout", "payments", "Search", "DATA-PLATFORM", "identity", "Büro Köln", "Příjem zboží", "配送")
_APPS = ("shop", "orders", "basket", "catalog", "invoice", "loyalty", "fleet", "reports", "gateway", "vault")

# Group names keep their provider's rule: letters, digits, _ - . ( ), and not a dot at the end.
_GROUPS = ("rg-{app}-{env}", "RG_{APP}_{env}", "{app}.{env}.rg", "rg-{app} ({env})", "MC_{app}-aks_{app}_{region}")

_ENVIRONMENTS: tuple[tuple[str, str], ...] = (
    ("environment", "production"),
    ("Environment", "Production"),
    ("ENVIRONMENT", "PRODUCTION"),
    ("environment", "staging"),
    ("Environment", "Dev"),
    ("env", "prod"),
)

_ODD_TAGS: tuple[dict[str, str] | None, ...] = (
    None,
    {},
    {"owner": "O'Brien & Söhne"},
    {"path": "C:\\deploy\\current", "note": 'says "do not delete"'},
    {"popis": "Účetní oddělení – Žďár nad Sázavou"},
    {"担当": "田中 美咲", "status": "🚀 live"},
    {"hidden-link:/app-insights": "true", "ms-resource-usage": "azure-cloud-shell"},
    {"empty": "", "quote": "it's 100% \\'fine\\'"},
    {"CostCenter": "cc-1042", "costcenter-note": "see costCenter"},
    {"createdBy": "terraform", "{brace}": "[bracket]", "semi;colon": "a=b&c=d"},
)


@dataclass(frozen=True)
class _Kind:
    """A type of resource: how its provider writes it, and how people name such a thing."""

    type: str
    name: str
    properties: Mapping[str, Any] | None = None
    sku: Mapping[str, Any] | None = None
    kind: str | None = None


_KINDS = (
    _Kind("Microsoft.Compute/virtualMachines", "vm-{app}-{n}", {"hardwareProfile": {"vmSize": "Standard_D4s_v5"}}),
    _Kind("Microsoft.Compute/disks", "vm-{app}-{n}_OsDisk_1", {"diskSizeGB": 128}, {"name": "Premium_LRS"}),
    _Kind("Microsoft.Network/networkInterfaces", "vm-{app}-{n}-nic", {"enableIPForwarding": False}),
    _Kind("Microsoft.Network/virtualNetworks", "vnet-{app}-{n}", {"enableDdosProtection": False}),
    _Kind(
        "Microsoft.Storage/storageAccounts", "st{app}{n}", {"accessTier": "Hot"}, {"name": "Standard_LRS"}, "StorageV2"
    ),
    _Kind("Microsoft.KeyVault/vaults", "kv-{app}-{n}", {"enableSoftDelete": True}),
    _Kind("Microsoft.Web/sites", "{app}-web-{n}", {"httpsOnly": True}, None, "app,linux"),
    _Kind("Microsoft.Web/serverFarms", "Plan-{app}-{n}", None, {"name": "P1v3", "capacity": 2}, "linux"),
    _Kind("Microsoft.Sql/servers", "sql-{app}-{n}", {"version": "12.0"}, None, "v12.0"),
    _Kind("Microsoft.Sql/servers/databases", "sql-{app}/{app}-db {n}", {"status": "Online"}, {"name": "S3"}),
    _Kind("microsoft.insights/components", "{app}-insights-{n}", {"Application_Type": "web"}, None, "web"),
    _Kind("microsoft.alertsmanagement/smartDetectorAlertRules", "Failure Anomalies - {app}-{n}", {"state": "Enabled"}),
    _Kind("microsoft.insights/actiongroups", "Application Insights Smart Detection {n}", {"enabled": True}),
    _Kind("Microsoft.ContainerService/managedClusters", "aks-{app}-{n}", {"kubernetesVersion": "1.33.2"}),
    _Kind("Microsoft.DocumentDB/databaseAccounts", "cosmos-{app}-{n}", {"databaseAccountOfferType": "Standard"}),
    _Kind("Microsoft.Logic/workflows", "Bestellung prüfen ({app} {n})", {"state": "Enabled"}),
    _Kind("Microsoft.Portal/dashboards", "Přehled {app} [{n}]"),
)


def seed(tenant: Tenant, *, groups: int = 40, resources: int = 400) -> None:
    """Add six subscriptions, with groups and resources over them; the same every time."""
    rng = random.Random(20240229)  # noqa: S311
    subscriptions = [
        tenant.add_subscription(name, tags, management_groups=above) for name, tags, above in _SUBSCRIPTIONS
    ]
    homes = [_add_group(tenant, rng, subscriptions[n % len(subscriptions)], n) for n in range(groups)]
    # Some groups are crowded and some empty, as in life.
    crowd = [homes[int(len(homes) * rng.random() ** 1.6)] for _ in range(resources)]
    tenant.create_resources([_resource(rng, home, n) for n, home in enumerate(crowd)])


def play(tenant: Tenant) -> list[str]:
    """Make a working day's changes, one of each kind, and return them in sentences."""
    rng = random.Random(7)  # noqa: S311
    day = _Day(tenant, rng)
    return [
        day.create_resource(),
        day.tag_resource(),
        day.touch_resource(),
        day.delete_resource(),
        day.recreate_resource(),
        day.move_resource(),
        day.retag_group(),
        day.delete_group(),
        day.add_group(),
        day.rename_subscription(),
    ]


def drift(tenant: Tenant, rng: random.Random) -> str:
    """Make one change, of the kinds that happen all day more often than of those that happen once a month."""
    day = _Day(tenant, rng)
    often = (day.create_resource, day.tag_resource, day.tag_resource, day.touch_resource, day.delete_resource)
    seldom = (day.recreate_resource, day.move_resource, day.retag_group, day.add_group, day.rename_subscription)
    return rng.choice((*often, *often, *often, *seldom))()


class _Day:
    """Changes to whatever there is: each does one and says so."""

    def __init__(self, tenant: Tenant, rng: random.Random) -> None:
        self._tenant = tenant
        self._rng = rng

    def create_resource(self) -> str:
        group = self._group()
        made = self._tenant.create_resource(**_resource(self._rng, group["id"], self._number()))
        return f"created {_last(made)} in {group['name']}"

    def tag_resource(self) -> str:
        resource = self._resource()
        ticket = f"CHG-{self._rng.randrange(10_000, 100_000)}"
        self._tenant.tag_resource(resource["id"], _tagged(resource["tags"], "lastChange", ticket))
        return f"tagged {resource['name']} with lastChange {ticket}"

    def touch_resource(self) -> str:
        resource = self._resource()
        self._tenant.touch_resource(resource["id"])
        return f"touched {resource['name']}, which changes nothing that can be seen"

    def delete_resource(self) -> str:
        resource = self._resource()
        self._tenant.delete_resource(resource["id"])
        return f"deleted {resource['name']} from {resource['resourceGroup']}"

    def recreate_resource(self) -> str:
        resource = self._resource()
        self._tenant.delete_resource(resource["id"])
        self._tenant.recreate_resource(resource["id"].replace("/resourceGroups/", "/resourcegroups/"))
        return f"deleted {resource['name']} and created it again"

    def move_resource(self) -> str:
        resource = self._resource()
        group = self._rng.choice([g for g in self._groups() if g["id"].lower() != _group_of(resource)])
        self._tenant.move_resource(resource["id"], group["id"])
        return f"moved {resource['name']} from {resource['resourceGroup']} to {group['name']}"

    def retag_group(self) -> str:
        group = self._group()
        key, value = self._rng.choice(_ENVIRONMENTS)
        self._tenant.retag_group(group["id"], _tagged(group["tags"], key, value))
        return f"tagged group {group['name']} with {key} {value}"

    def delete_group(self) -> str:
        home = _group_of(self._resource())
        group = next(g for g in self._groups() if g["id"].lower() == home)
        within = [r for r in self._tenant.resources() if _group_of(r) == home]
        self._tenant.delete_group(group["id"])
        return f"deleted group {group['name']} with the {len(within)} resources in it"

    def add_group(self) -> str:
        subscription = self._rng.choice(self._subscriptions())
        group = _add_group(self._tenant, self._rng, subscription["subscriptionId"], self._number())
        self._tenant.create_resources([_resource(self._rng, group, self._number()) for _ in range(3)])
        return f"added group {_last(group)} with three resources to {subscription['name']}"

    def rename_subscription(self) -> str:
        subscription = self._rng.choice(self._subscriptions())
        name = f"{subscription['name'].partition(' · ')[0]} · v{self._rng.randrange(2, 1000)}"
        self._tenant.rename_subscription(subscription["subscriptionId"], name)
        return f"renamed subscription {subscription['name']} to {name}"

    def _number(self) -> int:
        return self._rng.randrange(10**3, 10**7)

    def _resource(self) -> dict[str, Any]:
        return self._rng.choice(self._tenant.resources())

    def _groups(self) -> list[dict[str, Any]]:
        return [row for row in self._tenant.containers() if row["resourceGroup"]]

    def _group(self) -> dict[str, Any]:
        return self._rng.choice(self._groups())

    def _subscriptions(self) -> list[dict[str, Any]]:
        return [row for row in self._tenant.containers() if not row["resourceGroup"]]


def _add_group(tenant: Tenant, rng: random.Random, subscription_id: str, number: int) -> str:
    key, value = rng.choice(_ENVIRONMENTS)
    app, region = rng.choice(_APPS), rng.choice(_REGIONS)
    style = rng.choice(_GROUPS)
    name = style.format(app=f"{app}{number}", APP=f"{app}{number}".upper(), env=value, region=region)
    tags: dict[str, str] | None = None
    if number % 9:
        tags = {key: value, rng.choice(("team", "Team")): rng.choice(_TEAMS)}
        tags[rng.choice(("costcenter", "CostCenter", "cost-center"))] = f"cc-{1000 + number % 40}"
    elif number % 2:
        tags = {}
    return tenant.add_group(subscription_id, name, region, tags)


def _resource(rng: random.Random, group_id: str, number: int) -> dict[str, Any]:
    """Return the arguments of one new resource; its number keeps its name unique."""
    kind = rng.choice(_KINDS)
    odd = rng.choice(_ODD_TAGS)
    return {
        "group_id": group_id,
        "type": kind.type,
        "name": kind.name.format(app=rng.choice(_APPS), n=f"{number:03d}"),
        "location": "global" if kind.type == "microsoft.insights/actiongroups" else None,
        "tags": {**odd, "app": rng.choice(_APPS)} if odd and rng.random() < 0.5 else odd,
        "properties": kind.properties,
        "sku": kind.sku,
        "kind": kind.kind,
    }


def _tagged(tags: Mapping[str, str] | None, key: str, value: str) -> dict[str, str]:
    """Return `tags` with one more; Azure takes keys that differ in case for one key."""
    return {**{k: v for k, v in (tags or {}).items() if k.lower() != key.lower()}, key: value}


def _group_of(resource: Mapping[str, Any]) -> str:
    return "/".join(resource["id"].lower().split("/")[:5])


def _last(path: str) -> str:
    return path.rpartition("/")[2]
