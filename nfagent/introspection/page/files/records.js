// The records that the page holds: the latest ones, so many and so many characters at most, each once.
const MOST_RECORDS = 4000;
const MOST_CHARACTERS = 4 * 1024 * 1024;

const isEnd = (end) => end !== null && typeof end === "object" && (typeof end.instance === "string" || (typeof end.pod_name === "string" && typeof end.pod_namespace === "string"));

export function readRecord(line) {
  let found;
  try {
    found = JSON.parse(line);
  } catch {
    return null;
  }
  const connection = found && found.connection;
  const known = connection && typeof connection === "object" && isEnd(found.src) && isEnd(found.dest);
  return known && typeof found.disposition === "string" && typeof found.timestamp === "string" ? found : null;
}

export const WORDS = { allow: "allowed", deny: "denied", "audit-deny": "audit: passed" };
export const verdictWord = (record) => WORDS[record.disposition] || record.disposition;
export const verdictClass = (verdict) => (verdict in WORDS ? verdict : "other");

export const endName = (end) => end.instance || `${end.pod_namespace}/${end.pod_name}`;

function endpoint(address, port) {
  if (port === undefined || port === null) return address;
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}

// The destination as `nfagent logs` writes it: shop/db:5432/tcp.
export function destination(record) {
  const { dest_port: port, protocol } = record.connection;
  const name = record.dest.instance ? endpoint(record.dest.instance, port) : `${endName(record.dest)}${port === undefined ? "" : `:${port}`}`;
  return `${name}/${protocol}`;
}

// Both ends as GET /v1/explain takes them: the addresses that packets have. null without a port to judge.
export function explained(record) {
  const { src_ip: source, dest_ip: target, dest_port: port, protocol } = record.connection;
  if (protocol === "icmp" || protocol === "icmpv6") return { source, destination: `packet:${target}` };
  if (port === undefined || protocol === "unknown") return null;
  return { source, destination: `packet:${endpoint(target, port)}/${protocol}` };
}

export const policyNames = (record) => [...(record.policies || []), ...(record.isolating_policies || [])].map((policy) => (policy.namespace ? `${policy.namespace}/${policy.name}` : String(policy.name)));

export class RecordStore {
  constructor() {
    this.clear();
  }

  clear() {
    this.records = []; // oldest first
    this.known = new Set();
    this.characters = 0;
    this.lost = 0;
    this.unreadable = 0;
    this.unknownPods = [];
  }

  // Returns the records that are new, oldest first.
  add(lines) {
    const added = [];
    for (const line of lines) {
      const record = this.known.has(line) ? undefined : readRecord(line);
      if (record) {
        added.push({ line, record });
        this.known.add(line);
        this.characters += line.length;
      } else if (record === null) this.note(line);
    }
    this.records.push(...added);
    let gone = 0;
    while (gone < this.records.length - 1 && (this.records.length - gone > MOST_RECORDS || this.characters > MOST_CHARACTERS)) {
      this.known.delete(this.records[gone].line);
      this.characters -= this.records[gone].line.length;
      gone += 1;
    }
    if (gone) this.records.splice(0, gone);
    return added.slice(-this.records.length);
  }

  note(line) {
    try {
      const found = JSON.parse(line);
      if (typeof found.lost_records === "number") this.lost += found.lost_records;
      else if (Array.isArray(found.unknown_pods)) this.unknownPods = found.unknown_pods.map(String);
      else this.unreadable += 1;
    } catch {
      this.unreadable += 1;
    }
  }
}
