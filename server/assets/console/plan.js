// One plan: money and return over time, creatives with their posteriors, and why its return changed.

import { clock, mayChange, me, plans } from "./api.js";
import { card, count, h, legend, lines, money, moneyStep, percent, range, table, tile, waterfall, when, zone } from "./draw.js";
import { live } from "./live.js";
import { goalText, lasting, stateOf } from "./plans.js";

const EVERY_MS = 5000;
const GROUPS = { traffic: "Traffic", competition: "Competition", click_rate: "Click rate", conversion_rate: "Conversion rate", order_value: "Order value", control: "Control" };
const CAUSES = { traffic: "traffic of", traffic_quality: "worth of the users", win_rate: "win rate", price: "price of a win", click_rate: "clicks of", creative_mix: "creatives shown", conversion_rate: "conversion rate", order_value: "order value", target: "target", pacing: "controller", highest_bid: "highest bid", shading: "first-price shading", budget: "budget", pause: "pause", schedule: "schedule" };

const HOUR = 3600;
/** The budget is drawn up to so many times what was or may be spent. */
const FAR = 6;
/** What may be compared: a name, and the periods' length in seconds; without one the server takes the last day and the day before. */
const COMPARED = [["the last day with the day before", 0], ["the last whole hour with the hour before", HOUR], ["the last 7 days with the 7 before", 7 * 24 * HOUR]];

/** Spend so far against the budget, with the forecast of what is to come. */
function spending(plan, balance, rows, forecast, now) {
  let total = balance.spent_micros - rows.reduce((sum, row) => sum + row.spend_micros, 0);
  const points = rows.length ? [[Number(rows[0].key), total]] : [];
  for (const row of rows) points.push([Math.min(Number(row.key) + 3600, now), (total += row.spend_micros)]);
  if (!points.length) points.push([now - 3600, balance.spent_micros]);
  points.push([now, balance.spent_micros]);
  const expected = forecast && forecast.expected;
  const days = expected ? expected.series[expected.series.length - 1].day : 0;
  const ahead = expected ? expected.series : [];
  const add = (amount) => Math.min(balance.spent_micros + amount, plan.budget_micros);
  // As far ahead as it goes back, and a day at least: a long forecast must not squeeze what happened.
  const horizon = Math.max(1.5 * (now - points[0][0]), 86400);
  const to = now + Math.min(days * 86400, Math.max(plan.ends_at - now, 0), horizon);
  const inside = ahead.filter((p) => now + p.day * 86400 <= to + 1);
  const band = inside.map((p) => [now + p.day * 86400, add(p.spend_micros.low), add(p.spend_micros.high)]);
  // A budget far above all that is drawn would press the lines to the ground: then it is only told.
  const near = plan.budget_micros <= FAR * Math.max(balance.spent_micros, ...band.map((p) => p[2]));
  const budget = money(plan.budget_micros, plan.currency);
  return [
    lines({
      series: [{ points }, { points: inside.map((p) => [now + p.day * 86400, add(p.spend_micros.expected)]), kind: "second" }].filter((one) => one.points.length), band,
      limit: near ? plan.budget_micros : null, from: points[0][0], to: Math.max(to, now + 1), y: moneyStep, x: when, label: `Spend against budget over time: ${money(balance.spent_micros)} of ${budget} spent`,
    }),
    legend([["", "spent"], ...(expected ? [["second", "expected"], ["band", "eight of ten cases"]] : []), near ? ["limit", `budget, ${budget}`] : ["none", `budget: ${budget}, above this drawing`]]),
  ];
}

/** What a plan's goal is measured by: its name, what is counted for what, its target, whether more is better. */
function measure(goal, currency) {
  if (goal.roi) return { name: "Return", of: (row) => row.order_value_micros, by: (row) => row.spend_micros, target: goal.roi.target, more: true, text: (v) => v.toFixed(2) };
  const spend = (row) => row.spend_micros;
  const text = (v) => money(v, currency);
  if (goal.cpa) return { name: "Cost of an order", of: spend, by: (row) => row.conversions, target: goal.cpa.target_micros, more: false, text };
  return { name: "Cost of a click", of: spend, by: (row) => row.clicks, target: goal.cpc.target_micros, more: false, text };
}

/** The measure over all hours up to each hour, against the target. */
function reaching(measured, rows, now) {
  let [of, by] = [0, 0];
  const points = [];
  for (const row of rows) {
    of += measured.of(row);
    by += measured.by(row);
    if (by > 0) points.push([Math.min(Number(row.key) + HOUR, now), of / by]);
  }
  if (!points.length) return h("p", { class: "quiet" }, "There is nothing to measure yet.");
  const from = Number(rows[0].key);
  const last = points[points.length - 1][1];
  return [
    lines({ series: [{ points }], limit: measured.target, from, to: Math.max(now, from + 1), y: measured.more ? (v) => v.toFixed(2) : moneyStep, x: when, label: `${measured.name} over time: ${measured.text(last)}, target ${measured.text(measured.target)}` }),
    legend([["", `${measured.name.toLowerCase()} so far`], ["limit", "target"]]),
  ];
}

/** What each element of a composed creative adds to its click rate. */
function elementsOf(one) {
  const rows = one.elements.map((element) => {
    const { part = "", value = "" } = (one.creative.elements || {})[element.id] || {};
    const [low, high] = [element.adds - 1.645 * element.deviation, element.adds + 1.645 * element.deviation];
    const signed = (x) => `${x < 0 ? "-" : "+"}${percent(Math.abs(x), 2)}`;
    return [part, h("td", { class: "text" }, value, element.new ? h("span", { class: "quiet" }, " (new)") : null), count(element.impressions), signed(element.adds), `${signed(low)} to ${signed(high)}`];
  });
  return h("details", {}, h("summary", {}, `Elements of ${one.creative.id}`), table(["part", "element", "shown", "adds", "nine of ten cases"], rows, `Elements of ${one.creative.id}`));
}

/** What was counted of each creative beside what was learned of it: the first is exact, the second fades and leans on others. */
function creativesOf(answer, counted) {
  const top = Math.max(...answer.creatives.map((one) => one.click_rate.high), 0.01);
  const figures = new Map(counted.rows.map((row) => [row.key, row]));
  const rows = answer.creatives.map((one) => {
    const row = figures.get(one.creative.id) || { impressions: 0, clicks: 0, conversions: 0, spend_micros: 0 };
    const spread = `${percent(one.click_rate.low, 2)} to ${percent(one.click_rate.high, 2)}`;
    return [
      h("td", { class: "name" }, one.creative.id, h("br"), h("span", { class: "quiet" }, `${one.creative.format}${one.creative.w ? ` ${one.creative.w}x${one.creative.h}` : ""}`)),
      count(row.impressions), count(row.clicks), count(row.conversions), money(row.spend_micros),
      percent(one.click_rate.mean, 2), h("td", {}, range(one.click_rate, top, spread), h("br"), h("span", { class: "quiet" }, spread)), count(one.impressions),
    ];
  });
  if (!rows.length) return h("p", { class: "quiet" }, "This plan has no creatives and cannot bid.");
  return [
    table(["creative", "shown", "clicks", "orders", "spend", "click rate", "nine of ten cases", "learned from"], rows, "Creatives"),
    h("p", { class: "hint" }, "Shown to spend: counted in 7 days. Click rate, its range and the impressions it is learned from: what the chooser believes now. Old impressions fade, and the rate of a young creative comes mostly from others like it."),
    answer.creatives.filter((one) => one.elements).map(elementsOf),
  ];
}

function named(part) {
  return `${CAUSES[part.cause] || part.cause}${part.name ? ` ${part.name}` : ["traffic", "click_rate"].includes(part.cause) ? " the rest" : ""}`;
}

function diagnosisOf(told) {
  const byReturn = told.return_on_spend !== undefined;
  const whole = byReturn ? told.return_on_spend : told.order_value;
  const pick = (part) => (byReturn ? part.return_on_spend : part.order_value);
  const groups = Object.keys(GROUPS).map((group) => {
    const parts = told.parts.filter((part) => part.group === group);
    return { name: GROUPS[group], value: parts.reduce((sum, part) => sum + pick(part), 0), moved: parts.some((part) => part.moved) };
  });
  const text = byReturn ? (v) => v.toFixed(2) : (v) => money(v);
  const moved = told.parts.filter((part) => part.moved);
  const figure = (x) => Math.abs(x) >= 100 ? count(x) : x.toPrecision(3);
  const rows = told.parts.filter((part) => part.moved || Math.abs(pick(part)) > 0.01 * Math.abs(whole.before)).map((part) => [
    named(part), ...(byReturn ? [text(pick(part))] : []), money(part.order_value), money(part.spend), part.moved ? "moved" : "luck",
    h("td", { class: "text" }, part.evidence.map((e) => `${e.what}: ${figure(e.before)} to ${figure(e.after)}`).join("; ")),
  ]);
  return [
    h("p", { class: "summary" }, told.summary),
    h("p", { class: "quiet" }, `${when(told.before.from)} to ${when(told.before.to)}, against ${when(told.after.from)} to ${when(told.after.to)}. Pale bars are within luck.`),
    waterfall({ before: whole.before, after: whole.after, parts: groups, text, label: `${byReturn ? "Return on spend" : "Order value a day"} by cause, from before to after` }),
    // There even if it is empty: pages are brought up to date child by child, and what is open behind it must stay open.
    h("ul", { class: "steps", hidden: moved.length ? null : "" }, moved.map((part) => h("li", {}, h("b", {}, `${named(part)}: `), part.suggestion))),
    h("details", {}, h("summary", {}, "All parts with their evidence"), table(["part", ...(byReturn ? ["return"] : []), "order value a day", "spend a day", "judged", "evidence"], rows, "Parts of the change")),
  ];
}

function compared(length, now) {
  if (!length) return {};
  const to = Math.floor(now / HOUR) * HOUR;
  return { before_from: to - 2 * length, before_to: to - length, after_from: to - length, after_to: to };
}

async function parts(id, length) {
  // The first answer sets the clock to the server's.
  const [plan, who] = await Promise.all([plans.get(id), me()]);
  const now = clock();
  const from = now - 7 * 86400;
  const [balance, hours, channels, counted, creatives] = await Promise.all([plans.balance(id), ...["hour", "channel", "creative"].map((by) => plans.figures(id, { from, by })), plans.creatives(id)]);
  const left = Math.max((plan.ends_at - now) / 86400, 0.05);
  const free = Math.max(balance.free_micros + balance.held_micros, 1);
  const ask = { plan: id, budget_micros: free, goal: plan.goal, max_bid_micros: plan.max_bid_micros, days: Math.min(left, 30) };
  const [forecast, diagnosis] = await Promise.all([plans.forecast(ask).catch(() => null), plans.diagnosis(id, compared(length, now)).catch((error) => error)]);
  return { now, who, plan, balance, hours, channels, counted, creatives, forecast, diagnosis };
}

function tiles({ now, plan, balance, hours }, measured) {
  const { total } = hours;
  const [of, by] = [measured.of(total), measured.by(total)];
  const reached = by > 0 ? of / by : null;
  const tone = reached === null ? null : (measured.more ? reached >= measured.target : reached <= measured.target) ? "good" : "warm";
  const [lasts, soon] = lasting(plan, balance, now);
  return h("div", { class: "tiles" },
    tile(`of ${money(plan.budget_micros, plan.currency)} spent`, money(balance.spent_micros)), tile(`${plan.currency} held by open bids`, money(balance.held_micros)),
    tile(`money lasts, at the mean pace; the plan ends ${when(plan.ends_at)}`, lasts, soon),
    tile(`${measured.name.toLowerCase()} in 7 days, goal: ${goalText(plan.goal, plan.currency)}`, reached === null ? "–" : measured.text(reached), tone),
    tile("impressions paid for in 7 days", count(total.wins)), tile("clicks in 7 days", count(total.clicks)), tile("orders in 7 days", count(total.conversions)));
}

function page(got, fault, controls) {
  const { now, who, plan, balance, hours, channels, counted, creatives, forecast, diagnosis } = got;
  const measured = measure(plan.goal, plan.currency);
  const channelRows = channels.rows.map((row) => [row.key, count(row.wins), count(row.clicks), count(row.conversions), money(row.spend_micros), money(row.order_value_micros), row.return_on_spend === undefined ? "–" : row.return_on_spend.toFixed(2)]);
  const early = diagnosis instanceof Error && diagnosis.code === "not_enough" ? "There are too few figures in these periods to compare. This fills in by itself." : diagnosis.message;
  const compare = h("label", { class: "pick" }, "Compare ", h("select", { onchange: controls.compare }, COMPARED.map(([name, length]) => h("option", { value: length }, name))));
  return [
    h("div", { class: "bar" }, h("h1", {}, plan.name || plan.id, " ", stateOf(plan, balance, now)),
      mayChange(who) ? h("button", { type: "button", onclick: () => controls.flip(plan) }, plan.state === "active" ? "Pause" : "Resume") : null),
    h("p", { class: "quiet" }, `${plan.id} of ${plan.advertiser}. Money in ${plan.currency}, times in ${zone()}.`), h("p", { class: "fault", role: "alert" }, fault),
    tiles(got, measured),
    h("div", { class: "grid two" },
      card("Spend against budget", false, spending(plan, balance, hours.rows, forecast, now)),
      card(`${measured.name} against target`, false, reaching(measured, hours.rows, now)),
      card("Why did my return change?", true, compare, diagnosis instanceof Error ? h("p", { class: "quiet" }, early) : diagnosisOf(diagnosis)),
      card("Creatives", true, creativesOf(creatives, counted)),
      card("Channels", true, channelRows.length ? table(["channel", "paid", "clicks", "orders", "spend", "order value", "return"], channelRows, "Channels") : h("p", { class: "quiet" }, "Nothing was bought yet."),
        h("p", { class: "hint" }, "In 7 days."))),
  ];
}

/** Shows a plan until it is left. */
export async function show(main, id) {
  let [fault, length, shown] = ["", 0, null];
  const controls = {
    flip: async (plan) => {
      fault = "";
      try { await plans.change(id, { state: plan.state === "active" ? "paused" : "active" }); } catch (error) { fault = error.message; }
      await shown.again();
    },
    compare: async (event) => {
      length = Number(event.target.value);
      await shown.again();
    },
  };
  shown = await live(main, EVERY_MS, async () => page(await parts(id, length), fault, controls));
  return shown.stop;
}
