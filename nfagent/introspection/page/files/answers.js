// Questions to the agent: GET alone, below the page's own path.
export class Refusal extends Error {
  constructor(words, status) {
    super(words);
    this.status = status;
  }
}

export const NO_ANSWER = 0; // nothing listens where the page came from
export const NO_TOKEN = 401;
export const NO_AGENT = 502;
export const OTHER_VERSION = 404;

export async function ask(path, parameters, signal) {
  let response;
  try {
    response = await fetch(`v1/${path}?${new URLSearchParams(parameters)}`, { signal, cache: "no-store", redirect: "error" });
  } catch (error) {
    if (signal && signal.aborted) throw error;
    throw new Refusal("Nothing answers here any more: nfagent ui, or the agent that serves this page, has stopped.", NO_ANSWER);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

export async function askJson(path, parameters, signal) {
  const response = await ask(path, parameters, signal);
  try {
    return await response.json();
  } catch (error) {
    if (signal && signal.aborted) throw error;
    throw new Refusal("The agent's answer broke off, or can't be read.", response.status);
  }
}

async function refusal(response) {
  if (response.status === OTHER_VERSION) {
    return new Refusal("The running agent has another version than this page, and lacks this answer: restart it, so that both have one.", OTHER_VERSION);
  }
  const text = await response.text().catch(() => "");
  let words = text.trim();
  try {
    words = JSON.parse(text).error || words;
  } catch {
    // it is plain text
  }
  return new Refusal(words || `HTTP status ${response.status}`, response.status);
}
