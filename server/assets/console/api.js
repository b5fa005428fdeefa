// Calls to the API with the reader's token, which stays in this tab.

const KEY = "longbow-token";

export function token() {
  return sessionStorage.getItem(KEY) || "";
}

export function keep(text) {
  caller = null;
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

let skew = 0;
let caller = null;
/** How long an answer may take: a server that hangs must look like one that is gone. */
const PATIENCE_MS = 15_000;

/** The server's clock, Unix seconds. */
export const clock = () => Math.floor((Date.now() + skew) / 1000);

export class Refused extends Error {
  constructor(status, error) {
    super(error.field ? `${error.field}: ${error.message}` : error.message);
    this.plain = error.message;
    this.status = status;
    this.code = error.code;
    this.field = error.field;
  }
}

async function send(path, options) {
  try {
    return await fetch(path, { ...options, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  } catch {
    throw new Error("The server does not answer.");
  }
}

/** JSON of an answer; throws `Refused` with what the server said, or an error that says that nothing came. */
export async function call(method, path, body) {
  const headers = {};
  if (token()) headers.authorization = `Bearer ${token()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const answer = await send(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const date = Date.parse(answer.headers.get("date") || "");
  if (Number.isFinite(date)) skew = date - Date.now();
  const text = await answer.text();
  let json = null;
  try { json = text ? JSON.parse(text) : null; } catch { /* not JSON: the status says it */ }
  if (!answer.ok) throw new Refused(answer.status, (json && json.error) || { code: "failed", message: `the server answered ${answer.status}` });
  return json;
}

export async function metrics() {
  const answer = await send("/metrics");
  if (!answer.ok) throw new Refused(answer.status, { code: "failed", message: "metrics cannot be read" });
  return parse(await answer.text());
}

/** The answer of /readyz: {ready, phase, reasons:[{component, message}]}. A server that is not ready answers 503 with the same body. */
export const readiness = async () => (await send("/readyz")).json();

/** Prometheus text as Map(name -> [{labels, value}]). */
export function parse(text) {
  const out = new Map();
  for (const line of text.split("\n")) {
    if (!line || line[0] === "#") continue;
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const pair of (match[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[pair[1]] = pair[2];
    if (!out.has(match[1])) out.set(match[1], []);
    out.get(match[1]).push({ labels, value: Number(match[3]) });
  }
  return out;
}

const enc = encodeURIComponent;
export const plans = {
  list: (after) => call("GET", `/v1/plans?limit=50${after ? `&after=${enc(after)}` : ""}`),
  get: (id) => call("GET", `/v1/plans/${enc(id)}`),
  balances: (after) => call("GET", `/v1/balances?limit=50${after ? `&after=${enc(after)}` : ""}`),
  balance: (id) => call("GET", `/v1/plans/${enc(id)}/balance`),
  figures: (id, query) => call("GET", `/v1/plans/${enc(id)}/figures?${new URLSearchParams(query)}`),
  creatives: (id) => call("GET", `/v1/plans/${enc(id)}/creatives`),
  diagnosis: (id, query) => call("GET", `/v1/plans/${enc(id)}/diagnosis?${new URLSearchParams(query || {})}`),
  create: (plan) => call("POST", "/v1/plans", plan),
  change: (id, change) => call("PATCH", `/v1/plans/${enc(id)}`, change),
  forecast: (ask) => call("POST", "/v1/plans:forecast", ask),
};
export const creatives = { create: (one) => call("POST", "/v1/creatives", one) };
export const items = { list: (after) => call("GET", `/v1/items?limit=100${after ? `&after=${enc(after)}` : ""}`) };
/** Who holds the token: asked once for each token. */
export async function me() {
  caller ??= await call("GET", "/v1/me");
  return caller;
}
export const mayChange = (who) => who.role === "operator" || who.role === "advertiser";
