// What an operator should look at, read off the metrics: the worst first, each with its figure.

import { count, percent } from "./draw.js";

/** Shares of bid requests, growths and samples from which something is worth a line. */
const LATE = 0.01;
const GROWN = 3;
const RECALL = { least: 0.95, samples: 100 };

const words = (name) => name.replaceAll("_", " ");

/** Each value of a label that counted something in the span: "bad signature 3, unknown 1". */
function each(span, name, label, among, labels = {}) {
  const found = among.map((value) => [value, span.count(name, { ...labels, [label]: value })]).filter((row) => row[1] > 0);
  return found.length ? found.map(([value, n]) => `${words(value)} ${count(n)}`).join(", ") : null;
}

function gauges(span, name, label) {
  return (span.to.get(name) || []).filter((row) => row.value > 0).map((row) => row.labels[label]);
}

function broken(now, ready) {
  const out = ready.reasons.map((reason) => `not ready: ${reason.component}: ${reason.message}.`);
  for (const room of gauges(now, "longbow_poisoned", "room")) out.push(`${words(room)} had an I/O error and refuses its work until the server is started anew: look at its disk first.`);
  if (gauges(now, "longbow_gpu_lost").length) out.push("the GPU is lost to this process: the CPU answers until it has drained and ends.");
  const panics = now.count("longbow_panics_total");
  if (panics) out.push(`${count(panics)} handlers panicked: the log has where.`);
  const failed = each(now, "longbow_requests_total", "endpoint", ["bid", "rank", "events", "notice", "click", "catalog", "other"], { status: "5xx" });
  if (failed) out.push(`requests failed (5xx): ${failed}.`);
  const lost = each(now, "longbow_no_bids_total", "reason", ["failed", "ledger_poisoned", "not_ready"]);
  if (lost) out.push(`bid requests got no bid because a part of the server failed: ${lost}. The log names each.`);
  const unwritten = now.count("longbow_notices_total", { outcome: "failed" });
  if (unwritten) out.push(`${count(unwritten)} notices could not be written to the ledger.`);
  return out;
}

function looks(now, before) {
  const out = [];
  const asked = (span) => span.count("longbow_requests_total", { endpoint: "bid" });
  const of = (span) => (reason) => span.count("longbow_no_bids_total", { reason });
  const late = ["deadline", "too_little_time", "overloaded", "queue_full"];
  const part = (span, list) => (asked(span) ? list.map(of(span)).reduce((a, b) => a + b, 0) / asked(span) : 0);
  const compared = asked(before) > 0;
  if (part(now, late) >= LATE) out.push(`${percent(part(now, late))} of bid requests got no bid for want of time${compared ? ` (before: ${percent(part(before, late))})` : ""}: ${each(now, "longbow_no_bids_total", "reason", late)}.`);
  const rankings = now.count("longbow_requests_total", { endpoint: "rank" });
  const slow = now.count("longbow_requests_total", { endpoint: "rank", status: "504" });
  if (slow >= LATE * rankings && slow) out.push(`${percent(slow / rankings)} of rankings missed their deadline (504).`);
  for (const { labels } of now.to.get("longbow_no_bids_total") || []) {
    const [is, was] = [part(now, [labels.reason]), part(before, [labels.reason])];
    if (compared && ![...late, "failed", "ledger_poisoned", "not_ready"].includes(labels.reason) && is >= LATE && is > GROWN * was) out.push(`no bid for “${words(labels.reason)}” grew from ${percent(was)} to ${percent(is)} of bid requests.`);
  }
  const less = each(now, "longbow_degraded_total", "step", ["stale_state", "short_history"]);
  if (less) out.push(`answers were made with less to be in time: ${less}.`);
  const full = each(now, "longbow_queue_full_total", "queue", ["device", "refresh", "retrieve"]);
  if (full) out.push(`queues were full: ${full}.`);
  const notices = each(now, "longbow_notices_total", "outcome", ["bad_signature", "out_of_window", "bad_price", "malformed", "unknown"]);
  if (notices) out.push(`notices were refused: ${notices}. Spend that is not noticed is not charged.`);
  const turned = each(now, "longbow_connections_ended_total", "reason", ["refused", "refused_address", "evicted"]);
  if (turned) out.push(`connections were ended at their cap: ${turned}.`);
  const bounds = each(now, "longbow_limits_reached_total", "limit", ["body_bytes", "bodies_memory", "inflated_bytes", "request_time"]);
  if (bounds) out.push(`limits were reached: ${bounds}.`);
  const [recall, samples] = ["longbow_recall_ratio", "longbow_recall_samples_total"].map((name) => now.to.get(name)?.[0]?.value ?? 0);
  if (samples >= RECALL.samples && recall < RECALL.least) out.push(`searches find ${percent(recall)} of what an exact search would: raise index.probes (0 tunes them on made-up queries).`);
  return out;
}

/** Lines of [tone, text]; none where nothing is wrong. */
export function troubles(now, before, ready) {
  return [...broken(now, ready).map((text) => ["bad", text]), ...looks(now, before).map((text) => ["warm", text])];
}
