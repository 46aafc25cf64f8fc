// Whether all is well on the node: GET /v1/status, every ten seconds while the page is looked at.
import { askJson, NO_AGENT, NO_ANSWER, NO_TOKEN, OTHER_VERSION } from "./answers.js";
import { byId, count, make, printable, setText, short } from "./dom.js";

const SECONDS = 10;
const UNITS = [[86400, "d"], [3600, "h"], [60, "min"]];

export function duration(seconds) {
  if (typeof seconds !== "number") return "";
  for (const [unit, name] of UNITS) if (seconds >= 2 * unit) return `${Math.floor(seconds / unit)} ${name}`;
  return `${Math.round(seconds)} s`;
}

export class Status {
  constructor() {
    this.drawn = "";
    this.asking = false;
    this.refresh();
    setInterval(() => this.refresh(), SECONDS * 1000);
    document.addEventListener("visibilitychange", () => this.refresh());
  }

  async refresh() {
    if (document.hidden || this.asking) return;
    this.asking = true;
    try {
      const found = await askJson("status", {});
      if (typeof found.health !== "string" || !found.source || !found.denied || !found.log_loss) throw new Error("The agent's status has another format than this page reads: both need one version.");
      this.show(found);
    } catch (error) {
      this.fail(error);
    }
    this.asking = false;
  }

  fail(error) {
    const words = { [NO_AGENT]: "no agent", [NO_ANSWER]: "no answer", [NO_TOKEN]: "no token", [OTHER_VERSION]: "another version" };
    badge("degraded", words[error.status] || "not known");
    banner(error.status === NO_AGENT ? `${error.message}. This page goes on by itself once the agent runs: systemctl status nfagent` : error.message);
    byId("health-empty").hidden = false;
    setText(byId("health-empty"), "Not known: what was shown here may be old.");
    byId("problems").replaceChildren();
    byId("status").replaceChildren();
    this.drawn = "";
  }

  show(found) {
    setText(byId("node"), short(found.node || "", 80));
    document.title = `${found.health === "ok" ? "" : "(!) "}${short(found.node || "", 40)} – nfagent`;
    badge(found.health, found.health === "ok" ? "ok" : `degraded: ${count(found.problems.length, "problem")}`);
    banner(found.source.synced ? "" : "The agent has not read everything yet: what is allowed isn't known so far, and explanations have to wait.");
    byId("health-empty").hidden = true;
    const facts = factsOf(found).map(([name, ...texts]) => [name, ...texts.map((text) => short(text, 600))]);
    const drawn = JSON.stringify([found.problems, facts]);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    byId("problems").replaceChildren(...found.problems.map((text) => make("li", { text: short(text, 600) })));
    byId("status").replaceChildren(...facts.flatMap(([name, ...texts]) => [make("dt", { text: name }), ...texts.map((text) => make("dd", { text }))]));
  }
}

function badge(kind, words) {
  byId("health").className = `badge ${kind === "ok" ? "ok" : "degraded"}`;
  setText(byId("health"), `health: ${words}`);
}

function banner(words) {
  if (byId("banner").textContent === printable(words)) return;
  byId("banner").replaceChildren(...(words ? [make("p", { class: "note", text: printable(words) })] : []));
}

function deniedWords(denied) {
  if (!denied.seconds) return ["not counted yet"];
  const top = denied.top.map((item) => {
    const who = item.source ? `${item.source} → ${item.destination}` : "";
    const why = item.policies.length ? `by ${item.policies.join(", ")}` : item.reason ? `without a policy: ${item.reason}` : "";
    return `${item.packets.toLocaleString("en")} ${[who, why].filter(Boolean).join(" ")}`.trim();
  });
  return [`${count(denied.packets, "packet")} in the last ${duration(denied.seconds)}`, ...top];
}

function factsOf(found) {
  const { source, denied, log_loss: loss } = found;
  const heard = typeof source.age_seconds === "number" ? `, last ${source.kind === "apiserver" ? "heard" : "changed"} ${duration(source.age_seconds)} ago` : "";
  const soFar = source.synced ? "" : ", as far as it was read";
  const lost = [[loss.unread, "packets not read"], [loss.unwritten, "records not written"], [loss.dropped, "beyond the limits"]].filter(([number]) => number).map(([number, words]) => `${number.toLocaleString("en")} ${words}`);
  return [
    ["agent", `nfagent ${found.version}, up ${duration(found.uptime_seconds)}`],
    ["source", `${source.kind === "apiserver" ? "API server" : "manifests"} ${source.name}${heard}${source.synced ? "" : ", not read yet"}`],
    ["in sync", found.in_sync ? `yes, for ${duration(found.in_sync_seconds) || "a moment"}` : `no${found.enforced ? `: ${found.enforced}` : ""}`],
    ["Pods", `${found.local_pods.toLocaleString("en")} here, ${found.pods.toLocaleString("en")} in the cluster${soFar}`],
    ["policies", found.failing_closed_in_all ? `${found.policies.toLocaleString("en")}; failing closed: ${found.failing_closed.join(", ")}${found.failing_closed_in_all > found.failing_closed.length ? ", …" : ""}${soFar}` : `${found.policies.toLocaleString("en")}, none fails closed${soFar}`],
    ["denied", ...deniedWords(denied)],
    ["drift", found.drift_repairs ? `${count(found.drift_repairs, "repair")}${found.drift_by ? `, the last after ${found.drift_by}` : ""}` : "no repairs"],
    ["log loss", [lost.join(", ") || "none since the start", loss.problem].filter(Boolean).join("; ")],
  ];
}
