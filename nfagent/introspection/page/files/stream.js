// The stream of records: read line by line, and opened again when it ends.
import { ask, NO_TOKEN, OTHER_VERSION, Refusal } from "./answers.js";

const FIRST_PAUSE = 1; // seconds
const LONGEST_PAUSE = 15;
const SILENT_SECONDS = 35; // the agent writes an empty line every ten
const LONGEST_LINE = 4 * 1024 * 1024;
const FILTERED = "Nfagent-Records"; // an agent without this header ignores filters
const INVALID = 400;

const sleep = (seconds, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, seconds * 1000);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

export class RecordStream {
  // lines: called with an array of lines; state: with { kind, words }: connecting, live, waiting, refused or stopped
  constructor(lines, state) {
    this.lines = lines;
    this.state = state;
    this.stopping = new AbortController();
  }

  start(filter) {
    this.stopping.abort();
    this.stopping = new AbortController();
    this.run(filter, this.stopping.signal);
  }

  stop(words) {
    this.stopping.abort();
    this.state({ kind: "stopped", words });
  }

  async run(filter, signal) {
    let pause = FIRST_PAUSE;
    this.state({ kind: "connecting", words: "connecting …" });
    while (!signal.aborted) {
      const end = await this.read(filter, signal);
      if (signal.aborted) return;
      if (end.final) {
        this.state({ kind: "refused", words: end.words, status: end.status });
        return;
      }
      if (end.begun) pause = FIRST_PAUSE;
      this.state({ kind: "waiting", words: `${end.words} Trying again in ${pause} s.`, status: end.status });
      await sleep(pause, signal);
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  }

  async read(filter, signal) {
    const silence = new AbortController();
    const either = AbortSignal.any([signal, silence.signal]);
    let timer = setTimeout(() => silence.abort(), SILENT_SECONDS * 1000);
    let begun = false;
    try {
      const response = await ask("records", { filter: JSON.stringify(filter), last: "all" }, either);
      if (!response.headers.has(FILTERED)) {
        return { final: true, status: OTHER_VERSION, words: "The running agent is older than this page: it can't filter records." };
      }
      begun = true;
      this.state({ kind: "live", words: "live" });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done || signal.aborted) break;
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), SILENT_SECONDS * 1000);
        const found = (rest + value).split("\n");
        rest = found.pop();
        if (rest.length > LONGEST_LINE) throw new Error("a line without an end");
        this.lines(found.filter(Boolean));
      }
      return { begun, words: "The stream ended: the agent stops or starts." };
    } catch (error) {
      if (error instanceof Refusal) return { begun, final: [INVALID, NO_TOKEN, OTHER_VERSION].includes(error.status), words: error.message, status: error.status };
      return { begun, words: silence.signal.aborted ? "The agent has been silent for too long." : "The stream broke off." };
    } finally {
      clearTimeout(timer);
    }
  }
}
