// What the server is doing now, beside what it did before: readings of the metrics, kept as long as this tab is open.

import { metrics, readiness } from "./api.js";
import { bar, card, count, h, percent, table, tile } from "./draw.js";
import { live } from "./live.js";
import { troubles } from "./troubles.js";

const EVERY_MS = 3000;
/** "Now" is the time since the reading this long ago. */
const NOW_MS = 30_000;
/** "Before" goes back so far, by a reading a minute. */
const BEFORE_MS = 3_600_000;
const STEP_MS = 60_000;
/** Until this tab has watched so long, "before" is all since the server's start. */
const YOUNG_MS = 180_000;
const STAGES = ["parse", "load", "encode_wait", "encode", "retrieve", "score_wait", "score", "price", "choose", "record", "total"];
/** A stage is marked when its 99% are so many times those of before, over so many requests and by so many seconds at least. */
const SLOWER = { times: 2, requests: 30, seconds: 0.002 };

let readings = [];

const words = (name) => name.replaceAll("_", " ");
const ms = (seconds) => (seconds === null ? "–" : `${(1000 * seconds).toFixed(seconds < 0.01 ? 2 : 1)} ms`);
const share = (part, whole) => (whole ? percent(part / whole) : "–");
const values = (all, name, label) => [...new Set((all.get(name) || []).map((row) => row.labels[label]))].sort();
const fits = (row, labels) => Object.entries(labels).every(([key, value]) => row.labels[key] === value);
const sum = (all, name, labels = {}) => (all.get(name) || []).reduce((total, row) => (fits(row, labels) ? total + row.value : total), 0);

/** Counters and histograms between two readings. */
class Span {
  constructor(from, to) {
    Object.assign(this, { from, to });
  }

  count(name, labels) {
    return Math.max(sum(this.to, name, labels) - sum(this.from, name, labels), 0);
  }

  /** The time below which a share of the samples lies, from the buckets; null without any. */
  quantile(name, labels, part) {
    const bucket = (all) => (all.get(`${name}_bucket`) || []).filter((row) => fits(row, labels));
    const before = new Map(bucket(this.from).map((row) => [row.labels.le, row.value]));
    const rows = bucket(this.to).map((row) => [row.labels.le === "+Inf" ? Infinity : Number(row.labels.le), row.value - (before.get(row.labels.le) || 0)]).sort((a, b) => a[0] - b[0]);
    const total = rows.length ? rows[rows.length - 1][1] : 0;
    if (!total) return null;
    let [low, below] = [0, 0];
    for (const [edge, upTo] of rows) {
      if (upTo >= part * total) return edge === Infinity ? low : low + ((part * total - below) / Math.max(upTo - below, 1)) * (edge - low);
      [low, below] = [edge, upTo];
    }
    return low;
  }
}

/** One more reading. One a minute is kept for an hour, and all of the last half minute. */
function keep(all) {
  const at = Date.now();
  const last = readings[readings.length - 1];
  // Counters that went back are those of another process: what was read before says nothing of this one.
  if (last && sum(all, "longbow_scrapes_total") < sum(last.all, "longbow_scrapes_total")) readings = [];
  let kept = -Infinity;
  readings = readings.filter((one) => {
    if (at - one.at > BEFORE_MS + STEP_MS) return false;
    if (at - one.at > NOW_MS + EVERY_MS && one.at - kept < STEP_MS) return false;
    kept = one.at;
    return true;
  });
  readings.push({ at, all });
}

/** The span that is shown as now, that of before, and what they are called. */
function spans() {
  const nothing = { at: 0, all: new Map() };
  const last = readings[readings.length - 1];
  const start = [...readings].reverse().find((one) => last.at - one.at >= NOW_MS) || (readings.length > 1 ? readings[0] : nothing);
  const watched = start.at - readings[0].at >= YOUNG_MS;
  const first = watched ? readings[0] : nothing;
  const seconds = start === nothing ? 0 : (last.at - start.at) / 1000;
  return {
    now: new Span(start.all, last.all), before: new Span(first.all, start.all), seconds,
    told: seconds ? `now: the last ${seconds.toFixed(0)} seconds; before: ${watched ? `the ${((start.at - first.at) / 60_000).toFixed(0)} minutes before, as watched by this tab` : "since the server's start"}` : "since the server's start",
  };
}

function latency(now, before) {
  const of = "longbow_stage_seconds";
  const stages = STAGES.filter((stage) => values(now.to, `${of}_bucket`, "stage").includes(stage));
  return table(["stage", "requests", "median", "99%", "99% before"], stages.map((stage) => {
    const requests = now.count(`${of}_count`, { stage });
    const [high, was] = [now, before].map((span) => span.quantile(of, { stage }, 0.99));
    const slower = was !== null && high !== null && requests >= SLOWER.requests && high > SLOWER.times * was && high - was > SLOWER.seconds;
    return [words(stage), count(requests), ms(now.quantile(of, { stage }, 0.5)), h("td", { class: slower ? "bad" : null }, ms(high), slower ? " ▲" : null), ms(was)];
  }), "Latency by stage");
}

/** A counter by reason: how often now, its share of all now and before. */
function reasons(now, before, [name, label], whole, empty) {
  const of = (span, reason) => span.count(name, { reason });
  const [all, was] = [whole(now), whole(before)];
  const rows = values(now.to, name, "reason").map((reason) => [reason, of(now, reason), of(before, reason)]).filter((row) => row[1] + row[2] > 0).sort((a, b) => b[1] - a[1] || b[2] - a[2]);
  if (!rows.length) return h("p", { class: "quiet" }, empty);
  const top = Math.max(...rows.map((row) => row[1]), 1);
  return table(["reason", h("th", { class: "graph", scope: "col" }, "weight"), "now", "share", "before"], rows.map(([reason, n, m]) => [words(reason), h("td", { class: "graph" }, bar(n / top)), count(n), share(n, all), share(m, was)]), label);
}

function page({ now, before, seconds, told }, ready) {
  const rate = (name, labels) => (seconds ? count(now.count(name, labels) / seconds) : "–");
  const bids = { endpoint: "bid" };
  const asked = (span) => span.count("longbow_requests_total", bids);
  const [late, refused] = [["deadline", "too_little_time"], ["overloaded", "queue_full"]].map((list) => list.reduce((total, reason) => total + now.count("longbow_no_bids_total", { reason }), 0));
  const turned = refused + ["bid", "rank", "events"].reduce((total, endpoint) => total + now.count("longbow_requests_total", { endpoint, status: "503" }), 0);
  const slow = now.count("longbow_requests_total", { endpoint: "rank", status: "504" });
  const failed = now.count("longbow_requests_total", { status: "5xx" }) + now.count("longbow_no_bids_total", { reason: "failed" });
  const samples = sum(now.to, "longbow_recall_samples_total");
  const wrong = troubles(now, before, ready);
  const caches = values(now.to, "longbow_cache_lookups_total", "cache").map((cache) => {
    const of = (span, labels) => span.count("longbow_cache_lookups_total", { cache, ...labels });
    return [words(cache), count(of(now)), share(of(now, { outcome: "hit" }), of(now)), share(of(before, { outcome: "hit" }), of(before)), `${count(sum(now.to, "longbow_cache_bytes", { cache }) / 1048576)} MiB`];
  });
  const step = (span, step_) => span.count("longbow_degraded_total", { step: step_ });
  const steps = values(now.to, "longbow_degraded_total", "step").map((one) => [words(one), count(step(now, one)), share(step(now, one), asked(now)), share(step(before, one), asked(before))]);
  const money = ["granted", "spent", "held", "free"].map((state) => [state, count(sum(now.to, "longbow_money_usd", { state }))]);
  return [
    h("div", { class: "bar" }, h("h1", {}, "Overview"), h("p", { class: "quiet" }, told)),
    h("div", { class: "tiles" },
      tile("for traffic", ready.ready ? "Ready" : "Not ready", ready.ready ? "good" : "bad"),
      tile("bid requests a second", rate("longbow_requests_total", bids)),
      tile("bids a second", rate("longbow_bids_total")),
      tile("median of a bid request", ms(now.quantile("longbow_request_seconds", bids, 0.5))),
      tile("99% of bid requests within", ms(now.quantile("longbow_request_seconds", bids, 0.99))),
      tile("late, refused, failed requests", `${count(late + slow)}, ${count(turned)}, ${count(failed)}`, failed ? "bad" : late + slow + turned ? "warm" : null),
      tile(samples ? `recall of sampled searches (${count(samples)})` : "recall: no search was sampled yet", samples ? percent(sum(now.to, "longbow_recall_ratio")) : "–"),
      tile("memory", `${count(sum(now.to, "longbow_process_resident_bytes") / 1048576)} MiB`)),
    h("div", { class: "grid two" },
      card("What needs attention", true, wrong.length ? h("ul", { class: "steps" }, wrong.map(([tone, text]) => h("li", {}, h("b", { class: tone }, tone === "bad" ? "Broken: " : "Look: "), text)))
        : h("p", { class: "quiet" }, "Nothing that these figures show.")),
      card("Latency by stage", false, latency(now, before)),
      card("Why there was no bid", false, reasons(now, before, ["longbow_no_bids_total", "Why there was no bid"], asked, "Every bid request got a bid, or none came."),
        h("p", { class: "hint" }, "Bid requests without a bid, by the main reason; share of all bid requests.")),
      card("Why plans did not bid", false, reasons(now, before, ["longbow_plans_filtered_total", "Why plans did not bid"], (span) => span.count("longbow_plans_filtered_total", {}), "No plan was turned down."),
        h("p", { class: "hint" }, "Plans turned down for a request, of a plan for a request each; share of all that were.")),
      card("Caches", false, table(["cache", "lookups", "hits", "hits before", "memory"], caches, "Caches")),
      card("Answered with less", false, table(["step", "requests", "share", "before"], steps, "Degradations"), h("p", { class: "hint" }, "Steps taken to answer in time; share of bid requests.")),
      card("Money of all plans", false, table(["state", "US dollars"], money, "Money of all plans"))),
  ];
}

/** Shows the page until it is left. */
export async function overview(main) {
  const { stop } = await live(main, EVERY_MS, async () => {
    const [all, ready] = await Promise.all([metrics(), readiness()]);
    keep(all);
    return page(spans(), ready);
  });
  return stop;
}
