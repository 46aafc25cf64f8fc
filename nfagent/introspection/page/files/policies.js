// Policies with the packets that they have counted.
import { askJson } from "./answers.js";
import { byId, cell, count, make, printable, setText, short } from "./dom.js";

const ROWS = 200;
const SECONDS = 15;
const POLICIES_EVERY = 4; // counters are asked for more often than policies, which are longer
const PODS_NAMED = 5;

const nameOf = (policy) => (policy.namespace ? `${policy.namespace}/${policy.name}` : policy.name);

function known(policies) {
  if (!Array.isArray(policies) || !policies.every((policy) => policy && typeof policy.name === "string")) throw new TypeError("another format");
  return policies;
}

export function countedBy(counters) {
  const found = new Map();
  for (const counter of counters) {
    for (const name of counter.policies) {
      const key = JSON.stringify([counter.kind, counter.namespace, name]);
      const sums = found.get(key) || { allow: 0, deny: 0, "audit-deny": 0 };
      sums[counter.verdict] += counter.packets;
      found.set(key, sums);
    }
  }
  return found;
}

export class Policies {
  constructor() {
    this.turn = 0;
    this.policies = null;
    this.counts = new Map();
    this.asking = false;
    byId("policies-search").addEventListener("input", () => this.draw());
    setInterval(() => this.refresh(), SECONDS * 1000);
  }

  async refresh(first = false) {
    if (byId("policies-view").hidden || document.hidden || this.asking) return;
    this.asking = true;
    if (first && this.policies === null) setText(byId("policies-words"), "asking the agent …");
    try {
      if (first || this.turn % POLICIES_EVERY === 0) this.policies = known((await askJson("dump/policies", {})).policies);
      this.turn += 1;
      const counters = await askJson("dump/counters", {});
      this.counts = countedBy(counters.counters);
      this.note = [...(counters.unknown || []), ...(counters.notes || [])].map(String).join("; ");
    } catch (error) {
      this.note = error instanceof TypeError ? "The agent answers in another format than this page reads." : error.message;
    }
    this.asking = false;
    this.draw();
  }

  draw() {
    const words = byId("policies-search").value.trim().toLowerCase();
    const rows = (this.policies || []).filter((policy) => nameOf(policy).toLowerCase().includes(words)).map((policy) => ({
      policy, sums: this.counts.get(JSON.stringify([policy.kind, policy.namespace, policy.name])),
    }));
    const weight = ({ policy, sums }) => [policy.problem ? 1 : 0, sums ? 1 : 0, sums ? sums.deny + sums["audit-deny"] : 0, sums ? sums.allow : 0];
    rows.sort((one, two) => {
      const [left, right] = [weight(one), weight(two)];
      const at = left.findIndex((value, index) => value !== right[index]);
      return at < 0 ? 0 : right[at] - left[at];
    });
    const shown = rows.slice(0, ROWS);
    byId("policies-table").hidden = !shown.length;
    byId("policies-table").tBodies[0].replaceChildren(...shown.map(row));
    let said = this.policies === null ? "" : rows.length ? count(rows.length, "policy", "policies") : words ? "No policy has this in its name." : "There are no policies: every connection is allowed.";
    if (rows.length > ROWS) said += `; the first ${ROWS} are listed, those that deny most first`;
    setText(byId("policies-words"), [said, printable(this.note || "")].filter(Boolean).join(". "));
  }
}

function row({ policy, sums }) {
  const name = [make("bdi", { text: short(nameOf(policy)) })];
  if (policy.kind !== "NetworkPolicy") name.push(make("div", { class: "faint", text: short(policy.kind, 60) }));
  if (policy.audit) name.push(" ", make("span", { class: "verdict audit-deny", text: "audit" }));
  if (policy.problem) name.push(make("div", { class: "note", text: `${short(policy.problem.field || "", 80)} ${short(policy.problem.reason || "", 400)}`.trim() }));
  const pods = policy.local_pods || [];
  const named = pods.slice(0, PODS_NAMED).map((pod) => short(pod, 60)).join(", ");
  const denied = sums ? sums.deny.toLocaleString("en") + (sums["audit-deny"] ? ` (${sums["audit-deny"].toLocaleString("en")} audited)` : "") : "–";
  return make("tr", { role: "row" }, cell({ class: "wide" }, ...name),
    cell({ "data-name": "Pods here", text: pods.length ? `${pods.length}: ${named}${pods.length > PODS_NAMED ? ", …" : ""}` : "none" }),
    cell({ "data-name": "isolates", text: (policy.isolates || []).join(", ") || (policy.tier === "network" ? "–" : short(policy.tier, 20)) }),
    cell({ class: "number", "data-name": "allowed", text: sums ? sums.allow.toLocaleString("en") : "–" }),
    cell({ class: "number", "data-name": "denied", text: denied }));
}
