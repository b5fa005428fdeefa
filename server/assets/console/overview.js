// What the server is doing now: two readings of the metrics, a few seconds apart.

import { metrics } from "./api.js";
import { bars, count, h, percent, table, tile } from "./draw.js";

const EVERY_MS = 3000;
const STAGES = ["parse", "load", "encode_wait", "encode", "retrieve", "score_wait", "score", "price", "choose", "record", "total"];

function sum(all, name, labels = {}) {
  const fits = (row) => Object.entries(labels).every(([key, value]) => row.labels[key] === value);
  return (all.get(name) || []).filter(fits).reduce((total, row) => total + row.value, 0);
}

/** The time below which a share of the new samples lies, from histogram buckets; null without any. */
function quantile(now, then, name, labels, share) {
  const bucket = (all) => (all.get(`${name}_bucket`) || []).filter((row) => Object.entries(labels).every(([k, v]) => row.labels[k] === v));
  const before = new Map(bucket(then).map((row) => [row.labels.le, row.value]));
  const rows = bucket(now).map((row) => [row.labels.le === "+Inf" ? Infinity : Number(row.labels.le), row.value - (before.get(row.labels.le) || 0)]).sort((a, b) => a[0] - b[0]);
  const total = rows.length ? rows[rows.length - 1][1] : 0;
  if (!total) return null;
  let [low, below] = [0, 0];
  for (const [edge, upTo] of rows) {
    if (upTo >= share * total) return edge === Infinity ? low : low + ((share * total - below) / Math.max(upTo - below, 1)) * (edge - low);
    [low, below] = [edge, upTo];
  }
  return low;
}

const ms = (seconds) => (seconds === null ? "–" : `${(1000 * seconds).toFixed(seconds < 0.01 ? 2 : 1)} ms`);
const values = (all, name, label) => [...new Set((all.get(name) || []).map((row) => row.labels[label]))];

function page(now, then, seconds, whole) {
  const rate = (name, labels) => (seconds ? count(Math.max(sum(now, name, labels) - sum(then, name, labels), 0) / seconds) : "–");
  const delta = (name, labels) => Math.max(sum(now, name, labels) - sum(then, name, labels), 0);
  const ready = sum(now, "longbow_ready") > 0.5;
  const bids = { endpoint: "bid" };
  const tiles = h("div", { class: "tiles" },
    tile("ready for traffic", ready ? "Ready" : "Not ready", ready ? "good" : "bad"),
    tile("bid requests a second", rate("longbow_requests_total", bids)),
    tile("bids a second", rate("longbow_bids_total")),
    tile("median of a bid request", ms(quantile(now, then, "longbow_request_seconds", bids, 0.5))),
    tile("99% of bid requests within", ms(quantile(now, then, "longbow_request_seconds", bids, 0.99))),
    tile("requests refused", count(delta("longbow_requests_total", { status: "503" })), delta("longbow_requests_total", { status: "503" }) ? "warm" : null),
    tile("requests failed", count(delta("longbow_requests_total", { status: "5xx" })), delta("longbow_requests_total", { status: "5xx" }) ? "bad" : null),
    tile("recall of sampled searches", percent(sum(now, "longbow_recall_ratio"))),
    tile("memory", `${count(sum(now, "longbow_process_resident_bytes") / 1048576)} MiB`));
  const stages = STAGES.filter((stage) => values(now, "longbow_stage_seconds_bucket", "stage").includes(stage));
  const stageRows = stages.map((stage) => [stage, count(delta("longbow_stage_seconds_count", { stage })),
    ms(quantile(now, then, "longbow_stage_seconds", { stage }, 0.5)), ms(quantile(now, then, "longbow_stage_seconds", { stage }, 0.99))]);
  const caches = values(now, "longbow_cache_lookups_total", "cache").map((cache) => {
    const all = delta("longbow_cache_lookups_total", { cache });
    const hits = delta("longbow_cache_lookups_total", { cache, outcome: "hit" });
    return [cache, count(all), all ? percent(hits / all) : "–", `${count(sum(now, "longbow_cache_bytes", { cache }) / 1048576)} MiB`];
  });
  const reasons = values(now, "longbow_no_bids_total", "reason").map((reason) => [reason.replaceAll("_", " "), delta("longbow_no_bids_total", { reason })])
    .filter((row) => row[1] > 0).sort((a, b) => b[1] - a[1]).map((row) => [row[0], row[1], count(row[1])]);
  const steps = values(now, "longbow_degraded_total", "step").map((step) => [step.replaceAll("_", " "), count(delta("longbow_degraded_total", { step }))]);
  const money = ["granted", "spent", "held", "free"].map((state) => [state, count(sum(now, "longbow_money_usd", { state }))]);
  const card = (title, wide, ...content) => h("section", { class: wide ? "card wide" : "card" }, h("h2", {}, title), content);
  return [
    h("div", { class: "bar" }, h("h1", {}, "Overview"), h("p", { class: "quiet" }, whole ? "since the server started" : `the last ${count(seconds)} seconds`)),
    tiles,
    h("div", { class: "grid two" },
      card("Latency by stage", false, table(["stage", "requests", "median", "99%"], stageRows, "Latency by stage")),
      card("Why there was no bid", false, reasons.length ? bars(reasons, "Requests without a bid, by reason") : h("p", { class: "quiet" }, "Every bid request got a bid, or none came.")),
      card("Caches", false, table(["cache", "lookups", "hits", "memory"], caches, "Caches")),
      card("Answered with less", false, h("p", { class: "quiet" }, "Steps taken to answer in time."), table(["step", "requests"], steps, "Degradations")),
      card("Money of all plans", false, table(["state", "units"], money, "Money of all plans"))),
  ];
}

/** Shows the page until it is left. */
export async function overview(main) {
  const readings = [{ at: Date.now(), all: await metrics() }];
  const show = () => {
    const last = readings[readings.length - 1];
    const first = readings[0];
    const whole = readings.length < 2;
    const seconds = whole ? 0 : (last.at - first.at) / 1000;
    main.replaceChildren(...page(last.all, whole ? new Map() : first.all, seconds, whole));
  };
  show();
  const timer = setInterval(async () => {
    try {
      readings.push({ at: Date.now(), all: await metrics() });
      if (readings.length > 11) readings.shift();
      if (!document.hidden) show();
    } catch { /* the next reading may succeed */ }
  }, EVERY_MS);
  return () => clearInterval(timer);
}
