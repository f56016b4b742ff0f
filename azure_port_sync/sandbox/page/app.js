// The catalog page. It reads /api only, draws a page of rows at a time, and sets text as text: tags are hostile.

const POLL_MS = 2000;
const OPEN_UP_TO_GROUPS = 120;
const KINDS = {
  azureSubscription: { css: "subscription", one: "Subscription", many: "subscriptions", children: ["group", "groups"] },
  azureResourceGroup: { css: "group", one: "Resource group", many: "resource groups", children: ["resource", "resources"] },
  azureCloudResources: { css: "resource", one: "Resource", many: "resources", children: ["dependent", "dependents"] },
};
const TYPES = {
  "microsoft.alertsmanagement/smartdetectoralertrules": "Smart detector alert rule",
  "microsoft.apimanagement/service": "API Management",
  "microsoft.app/containerapps": "Container app",
  "microsoft.app/managedenvironments": "Container Apps environment",
  "microsoft.authorization/policyassignments": "Policy assignment",
  "microsoft.automation/automationaccounts": "Automation account",
  "microsoft.cache/redis": "Redis cache",
  "microsoft.cognitiveservices/accounts": "AI services account",
  "microsoft.compute/disks": "Disk",
  "microsoft.compute/images": "Image",
  "microsoft.compute/snapshots": "Snapshot",
  "microsoft.compute/virtualmachines": "Virtual machine",
  "microsoft.compute/virtualmachines/extensions": "VM extension",
  "microsoft.compute/virtualmachinescalesets": "VM scale set",
  "microsoft.containerinstance/containergroups": "Container instance",
  "microsoft.containerregistry/registries": "Container registry",
  "microsoft.containerservice/managedclusters": "Kubernetes cluster",
  "microsoft.databricks/workspaces": "Databricks workspace",
  "microsoft.datafactory/factories": "Data factory",
  "microsoft.dbforpostgresql/flexibleservers": "PostgreSQL server",
  "microsoft.dbforpostgresql/servers": "PostgreSQL server",
  "microsoft.documentdb/databaseaccounts": "Cosmos DB account",
  "microsoft.eventgrid/topics": "Event Grid topic",
  "microsoft.eventhub/namespaces": "Event Hubs namespace",
  "microsoft.insights/actiongroups": "Action group",
  "microsoft.insights/components": "Application Insights",
  "microsoft.insights/metricalerts": "Metric alert",
  "microsoft.insights/workbooks": "Workbook",
  "microsoft.keyvault/vaults": "Key vault",
  "microsoft.logic/workflows": "Logic app",
  "microsoft.machinelearningservices/workspaces": "Machine Learning workspace",
  "microsoft.managedidentity/userassignedidentities": "Managed identity",
  "microsoft.network/applicationgateways": "Application gateway",
  "microsoft.network/azurefirewalls": "Firewall",
  "microsoft.network/bastionhosts": "Bastion host",
  "microsoft.network/dnszones": "DNS zone",
  "microsoft.network/frontdoors": "Front Door",
  "microsoft.network/loadbalancers": "Load balancer",
  "microsoft.network/networkinterfaces": "Network interface",
  "microsoft.network/networksecuritygroups": "Network security group",
  "microsoft.network/networkwatchers": "Network watcher",
  "microsoft.network/privatednszones": "Private DNS zone",
  "microsoft.network/privateendpoints": "Private endpoint",
  "microsoft.network/publicipaddresses": "Public IP address",
  "microsoft.network/routetables": "Route table",
  "microsoft.network/virtualnetworkgateways": "Virtual network gateway",
  "microsoft.network/virtualnetworks": "Virtual network",
  "microsoft.operationalinsights/workspaces": "Log Analytics workspace",
  "microsoft.operationsmanagement/solutions": "Log Analytics solution",
  "microsoft.portal/dashboards": "Dashboard",
  "microsoft.recoveryservices/vaults": "Recovery Services vault",
  "microsoft.search/searchservices": "AI Search",
  "microsoft.servicebus/namespaces": "Service Bus namespace",
  "microsoft.sql/servers": "SQL server",
  "microsoft.sql/servers/databases": "SQL database",
  "microsoft.storage/storageaccounts": "Storage account",
  "microsoft.synapse/workspaces": "Synapse workspace",
  "microsoft.web/certificates": "App Service certificate",
  "microsoft.web/serverfarms": "App Service plan",
  "microsoft.web/sites": "App Service",
  "microsoft.web/staticsites": "Static web app",
};
const REGIONS = {
  australiaeast: "Australia East", brazilsouth: "Brazil South", canadacentral: "Canada Central",
  centralindia: "Central India", centralus: "Central US", eastasia: "East Asia", eastus: "East US",
  eastus2: "East US 2", francecentral: "France Central", germanywestcentral: "Germany West Central",
  global: "Global", italynorth: "Italy North", japaneast: "Japan East", koreacentral: "Korea Central",
  northcentralus: "North Central US", northeurope: "North Europe", norwayeast: "Norway East",
  polandcentral: "Poland Central", southafricanorth: "South Africa North", southcentralus: "South Central US",
  southeastasia: "Southeast Asia", spaincentral: "Spain Central", swedencentral: "Sweden Central",
  switzerlandnorth: "Switzerland North", uaenorth: "UAE North", uksouth: "UK South", ukwest: "UK West",
  westcentralus: "West Central US", westeurope: "West Europe", westus: "West US", westus2: "West US 2", westus3: "West US 3",
};

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const plural = (count, [one, many]) => `${number.format(count)} ${count === 1 ? one : many}`;

const page = {
  etag: null, version: null, summary: null, clock: null,
  query: "", blueprint: "", // what the list shows: the tree when both are empty
  toggled: new Set(), shown: new Map(), // by node key: which are open or shut by hand, how many children are drawn
  selected: null, drawing: 0,
};

// ---- small tools

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 12 12");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

async function get(path, parameters = {}) {
  const answer = await fetch(`/api/${path}?${new URLSearchParams(parameters)}`);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

const hrefOf = (row) => `#/${row.blueprint}/${encodeURIComponent(row.identifier)}`;
const keyOf = (row) => `${row.blueprint}\n${row.identifier}`;
const nameOf = (row) => row.title || row.identifier;
const regionOf = (location) => REGIONS[location] ?? location;

function typeOf(type) {
  if (TYPES[type]) return TYPES[type];
  const [provider, ...parts] = type.split("/");
  return `${parts.join(" / ") || provider} (${provider.replace(/^microsoft\./, "")})`;
}

// A resource's type, read from its identifier: what is deleted has nothing else left to tell it.
function typeInside(identifier) {
  const [provider, ...parts] = identifier.split("/providers/").pop().split("/");
  return [provider, ...parts.filter((_, index) => index % 2 === 0)].join("/");
}

function kindOf(row) {
  const words = [];
  if (row.properties.type) words.push(typeOf(row.properties.type));
  if (row.properties.location) words.push(regionOf(row.properties.location));
  return words.join(" · ");
}

function ago(instant) {
  const seconds = Math.max(0, (Date.parse(page.clock) - Date.parse(instant)) / 1000);
  if (seconds < 5) return "just now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} d ago`;
}

function time(instant) {
  return el("time", { datetime: instant, title: instant.replace("T", " ").replace("Z", " UTC") }, ago(instant));
}

// ---- header

function drawHeader() {
  const { summary } = page;
  for (const [blueprint, counts] of Object.entries(summary.comparison.counts)) {
    const place = $(`count-${blueprint}`);
    if (!place) continue;
    place.replaceChildren(number.format(counts.catalog));
    if (counts.tenant !== counts.catalog) place.append(el("small", {}, `of ${number.format(counts.tenant)}`));
  }
  $("last-arrival").textContent = summary.last_arrival ? ago(summary.last_arrival) : "nothing yet";
  drawVerdict(summary.comparison);
}

function drawVerdict({ equal, sentences }) {
  const verdict = $("verdict");
  verdict.className = `verdict ${equal ? "equal" : "differs"}`;
  $("verdict-text").textContent = equal ? "Catalog equals tenant" : "Catalog differs from tenant";
  verdict.toggleAttribute("data-more", !equal);
  const groups = new Map();
  for (const sentence of sentences) {
    const [, heading, item] = sentence.match(/^(.*?: .*?): ([^]*)$/) ?? [null, "", sentence];
    groups.set(heading, [...(groups.get(heading) ?? []), item]);
  }
  $("differences").replaceChildren(...[...groups].flatMap(([heading, items]) => [
    el("h3", {}, readable(heading)),
    el("ul", {}, ...items.map((item) => el("li", {}, item))),
  ]));
  if (equal) expandDifferences(false);
}

function readable(heading) {
  const [blueprint, what] = heading.split(": ");
  const kind = KINDS[blueprint];
  return kind ? `${kind.many[0].toUpperCase()}${kind.many.slice(1)}: ${what}` : heading;
}

function expandDifferences(open) {
  $("verdict").setAttribute("aria-expanded", String(open));
  $("differences").hidden = !open;
}

// ---- what arrived last

function drawActivity({ activity, failures, failures_total: total }) {
  $("activity").replaceChildren(...(activity.length ? activity.map(activityItem) : [emptyItem("Nothing has arrived yet.")]));
  $("failures-section").hidden = total === 0;
  $("failures-total").textContent = number.format(total);
  $("failures").replaceChildren(...failures.map(failureItem));
}

const emptyItem = (text) => el("li", {}, el("div", { class: "none" }, text));

function activityItem(item) {
  const resource = item.blueprint === "azureCloudResources" && item.identifier.includes("/providers/");
  const kind = resource ? typeOf(typeInside(item.identifier)) : KINDS[item.blueprint]?.one ?? item.blueprint;
  const also = item.dependents ? `, with ${plural(item.dependents, ["dependent", "dependents"])}` : "";
  const gone = item.operation === "deleted";
  return el("li", { class: item.operation },
    el(gone ? "div" : "a", gone ? {} : { href: hrefOf(item) },
      el("span", { class: "what" },
        el("span", { class: "mark", "aria-hidden": "true" }),
        el("span", { class: "name", title: item.identifier }, nameOf(item))),
      time(item.at),
      el("span", { class: "under" }, el("span", { class: "word" }, item.operation), ` · ${kind}${also}`)));
}

function failureItem(item) {
  return el("li", { class: "refused" },
    el("div", {},
      el("span", { class: "what" },
        el("span", { class: "mark", "aria-hidden": "true" }),
        el("span", { class: "name", title: String(item.identifier) }, String(item.identifier).split("/").pop())),
      time(item.at),
      el("span", { class: "under" }, `${KINDS[item.blueprint]?.one ?? item.blueprint}, ${item.operation}: ${item.reason}`)));
}

// ---- the list: a tree, or what a search found

async function drawList() {
  const turn = ++page.drawing;
  const place = $("list");
  try {
    const tree = !page.query && !page.blueprint;
    const nodes = tree ? await treeNodes() : await foundNodes();
    if (turn !== page.drawing) return; // a newer drawing overtook this one
    const focus = place.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    place.replaceChildren(...nodes);
    if (focus) [...place.querySelectorAll("[data-focus]")].find((node) => node.dataset.focus === focus)?.focus();
  } catch (error) {
    if (turn === page.drawing) place.replaceChildren(empty("The catalog could not be read", error.message));
  }
}

async function treeNodes() {
  $("found").textContent = "";
  const nodes = await branch("", "", 0);
  const loose = page.summary?.unattached ?? 0;
  if (loose) nodes.push(...await looseNodes(loose));
  return nodes.length ? nodes : [empty("The catalog is empty", "Run a sync: what arrives shows up here by itself.")];
}

// Subscriptions are open until shut, where that makes a list a person can overlook.
function isOpen(row) {
  const groups = page.summary?.blueprints.azureResourceGroup.entities ?? 0;
  const first = row.blueprint === "azureSubscription" && groups <= OPEN_UP_TO_GROUPS;
  return first !== page.toggled.has(keyOf(row));
}

async function branch(blueprint, identifier, depth) {
  const key = `${blueprint}\n${identifier}`;
  const found = await get("children", { blueprint, identifier, limit: page.shown.get(key) ?? 100 });
  const nodes = await Promise.all(found.rows.map(async (row) => {
    const open = row.children > 0 && isOpen(row);
    const below = open ? await branch(row.blueprint, row.identifier, depth + 1) : [];
    return [rowNode(row, depth, { open }), ...below];
  }));
  return [...nodes.flat(), ...moreNode(found, key, depth)];
}

async function looseNodes(count) {
  const key = "unattached\n";
  const row = { blueprint: "unattached", identifier: "", title: "Not attached", children: count, properties: {} };
  const open = isOpen(row);
  const node = rowNode(row, 0, { open });
  return [node, ...(open ? await branch("unattached", "", 1) : [])];
}

async function foundNodes() {
  const key = `search\n${page.blueprint}\n${page.query}`;
  const found = await get("search", { q: page.query, blueprint: page.blueprint, limit: page.shown.get(key) ?? 100 });
  const kind = KINDS[page.blueprint];
  const what = kind ? [kind.one.toLowerCase(), kind.many] : ["entity", "entities"];
  $("found").textContent = `${plural(found.total, what)}${page.query ? ` with “${page.query}”` : ""}`;
  if (!found.total) return [empty("Nothing found", "Every word must occur in the name, type, region, tags or id.")];
  return [...found.rows.map((row) => rowNode(row, 0, { path: true })), ...moreNode(found, key, 0)];
}

function rowNode(row, depth, { open = false, path = false }) {
  const kind = KINDS[row.blueprint];
  const key = keyOf(row);
  const twist = row.children && !path
    ? el("button", { class: "twist", type: "button", "aria-expanded": String(open), "aria-label": `Show what is in ${nameOf(row)}`, "data-focus": `twist ${key}`, onclick: () => toggle(key) }, icon("M4 2l4 4-4 4"))
    : el("span");
  const target = kind ? { href: hrefOf(row) } : { href: "#", onclick: (event) => { event.preventDefault(); toggle(key); } };
  const inside = row.children ? plural(row.children, kind?.children ?? ["entity", "entities"]) : "";
  return el("div", { class: `row ${kind?.css ?? ""} ${page.selected === key ? "selected" : ""}`, style: `--depth:${depth}` },
    twist,
    el("a", { class: "open", "data-focus": `open ${key}`, ...target },
      el("span", { class: "line" },
        el("span", { class: "name", title: nameOf(row) }, nameOf(row)),
        el("span", { class: "kind" }, path && row.blueprint !== "azureCloudResources" ? [kind.one, kindOf(row)].filter(Boolean).join(" · ") : kindOf(row))),
      path && row.parents.length ? el("span", { class: "path" }, row.parents.map(nameOf).join(" ‹ ")) : null,
      chips(row.properties.tags, 6)),
    el("span", { class: "aside" }, inside));
}

function chips(tags, most = Infinity) {
  const entries = Object.entries(tags ?? {});
  if (!entries.length) return null;
  const shown = entries.slice(0, most).map(([key, value]) =>
    el("span", { class: "chip", title: `${key}: ${value}` }, el("b", {}, `${key} `), String(value)));
  if (entries.length > most) shown.push(el("span", { class: "chip" }, `+${entries.length - most}`));
  return el("span", { class: "chips" }, ...shown);
}

function moreNode(found, key, depth) {
  const left = found.total - found.rows.length;
  if (left <= 0) return [];
  const show = () => {
    page.shown.set(key, found.rows.length + 200);
    drawList();
  };
  return [el("button", { class: "more", type: "button", style: `--depth:${depth}`, "data-focus": `more ${key}`, onclick: show },
    `Show ${number.format(Math.min(left, 200))} more of ${number.format(left)}`)];
}

const empty = (heading, text) => el("div", { class: "empty" }, el("strong", {}, heading), text);

function toggle(key) {
  if (!page.toggled.delete(key)) page.toggled.add(key);
  drawList();
}

// ---- one entity

async function openDetails(blueprint, identifier) {
  const dialog = $("details");
  page.selected = `${blueprint}\n${identifier}`;
  try {
    dialog.replaceChildren(...detailNodes(await get("entity", { blueprint, identifier })));
  } catch (error) {
    dialog.replaceChildren(detailsTop(KINDS[blueprint]?.one ?? blueprint, "Not in the catalog"), el("p", {}, error.message), el("p", { class: "none" }, identifier));
  }
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  drawList();
}

function detailsTop(eyebrow, title) {
  return el("div", { class: "top" },
    el("div", {}, el("p", { class: "eyebrow" }, eyebrow), el("h2", { id: "details-title" }, title)),
    el("button", { class: "close", type: "button", "aria-label": "Close", onclick: () => $("details").close() }, "×"));
}

function detailNodes({ entity, children, parents }) {
  const kind = KINDS[entity.blueprint];
  const { tags, ...others } = entity.properties;
  const facts = Object.entries(others).flatMap(([name, value]) => fact(name, value));
  const inside = children && kind ? el("button", { class: "link", type: "button", onclick: () => reveal(entity, parents) }, plural(children, kind.children)) : null;
  return [
    detailsTop(kind?.one ?? entity.blueprint, nameOf(entity)),
    el("h3", {}, "Properties"),
    el("dl", { class: "facts" }, ...facts,
      el("dt", {}, "Tags"), el("dd", {}, chips(tags) ?? el("span", { class: "none" }, "none")),
      ...(inside ? [el("dt", {}, "Contains"), el("dd", {}, inside)] : []),
      el("dt", {}, "Created"), el("dd", {}, time(entity.createdAt)),
      el("dt", {}, "Updated"), el("dd", {}, time(entity.updatedAt)),
      el("dt", {}, "Identifier"), el("dd", {}, entity.identifier)),
    ...(parents.length ? [el("h3", {}, "Belongs to"), el("dl", { class: "facts" }, ...parents.flatMap(parentFact))] : []),
    el("h3", {}, "As Port's API shows it"),
    el("pre", {}, JSON.stringify(entity, null, 2)),
  ];
}

function fact(name, value) {
  const label = { type: "Type", location: "Region", subscriptionId: "Subscription id" }[name] ?? name;
  let text = typeof value === "string" ? value : JSON.stringify(value);
  if (name === "location" && REGIONS[value]) text = `${REGIONS[value]} (${value})`;
  if (name === "type" && TYPES[value]) text = `${TYPES[value]} (${value})`;
  const content = value === null || value === "" ? el("span", { class: "none" }, "none") : text;
  return [el("dt", {}, label), el("dd", {}, content)];
}

function parentFact(parent) {
  const kind = KINDS[parent.blueprint]?.one ?? parent.blueprint;
  const target = parent.exists
    ? el("a", { class: "link", href: hrefOf(parent) }, nameOf(parent))
    : el("span", {}, parent.identifier, " ", el("span", { class: "gone" }, "not in the catalog"));
  return [el("dt", {}, kind), el("dd", {}, target)];
}

function reveal(entity, parents) {
  $("details").close();
  show("", "");
  for (const one of [entity, ...parents]) if (!isOpen(one)) page.toggled.add(keyOf(one));
  drawList();
}

function followHash() {
  const [, blueprint, identifier] = location.hash.split("/");
  if (identifier) openDetails(blueprint, decodeURIComponent(identifier));
  else $("details").close();
}

// ---- what the person does

function show(query, blueprint) {
  page.query = query;
  page.blueprint = blueprint;
  if ($("search").value.trim() !== query) $("search").value = query;
  for (const button of document.querySelectorAll(".kinds button")) {
    button.setAttribute("aria-pressed", String(button.dataset.blueprint === blueprint));
  }
}

let typing;
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    show($("search").value.trim(), page.blueprint);
    drawList();
  }, 120);
});
for (const button of document.querySelectorAll(".kinds button")) {
  button.addEventListener("click", () => {
    show(page.query, button.dataset.blueprint);
    drawList();
  });
}
$("verdict").addEventListener("click", () => {
  if ($("verdict").hasAttribute("data-more")) expandDifferences($("differences").hidden);
});
$("details").addEventListener("close", () => {
  page.selected = null;
  history.replaceState(null, "", location.pathname + location.search);
  drawList();
});
window.addEventListener("hashchange", followHash);
$("details").addEventListener("click", (event) => {
  if (event.target === $("details")) $("details").close(); // the backdrop, not what is on the sheet
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !$("details").open && document.activeElement !== $("search")) {
    event.preventDefault();
    $("search").focus();
    $("search").select();
  }
});

// ---- keeping up

async function poll() {
  try {
    const answer = await fetch("/api/summary", { cache: "no-store", headers: page.etag ? { "If-None-Match": page.etag } : {} });
    page.clock = answer.headers.get("X-Sandbox-Clock");
    const [date, hours] = page.clock.split("T");
    $("clock").replaceChildren(hours.slice(0, 8), el("small", { class: "none" }, date));
    if (answer.status !== 304) {
      page.summary = await answer.json();
      page.etag = answer.headers.get("ETag");
    }
    drawHeader();
    drawActivity(page.summary);
    if (page.version !== page.summary.version) {
      page.version = page.summary.version;
      await drawList();
    }
  } catch {
    $("verdict").className = "verdict lost";
    $("verdict-text").textContent = "The sandbox does not answer";
    $("verdict").removeAttribute("data-more");
    page.etag = null;
  }
  setTimeout(poll, POLL_MS);
}

const parameters = new URLSearchParams(location.search);
if (parameters.has("theme")) document.documentElement.dataset.theme = parameters.get("theme");
show(parameters.get("q") ?? "", parameters.get("blueprint") ?? "");
poll().then(followHash);
