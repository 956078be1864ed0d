// What remedies were worth on copies of the model: measured, beside copies that did not get them.

import { count, el, number, prose, real, section, signed } from "./dom.js";
import { code } from "./findings.js";

/** A positive loss that spans so many times its smallest is drawn on a logarithmic axis. */
const WIDE = 100;

/** Return the section of a trial, null without one. */
export function trial(data) {
  if (!data) return null;
  return section("trial", "Measured on copies of this model",
    el("p", {}, el("b", {}, prose(data.summary))),
    data.steps ? results(data) : null,
    data.verdicts.map((each, i) => folded(!i && each.recommended,
      [each.title, el("span", { class: "muted when" },
        each.recommended ? "✓ recommended: " : "does not help: ", each.name)],
      el("p", {}, prose(each.reason), ".",
        each.left.length ? ` Still found then: ${each.left.join(", ")}.` : ""), code(each.code))),
    data.rest.map(({ what, names }) => folded(false, what, el("ul", {}, names.map((name) => el("li", {}, name))))));
}

function folded(open, summary, ...rest) {
  return el("details", { open: open ? "" : null }, el("summary", {}, summary), rest);
}

/** A table in a box that scrolls: rows of cells, the first names its row; `kinds` are their classes. */
export function grid(caption, heads, rows, kinds) {
  const cells = (row) => row.map((cell, i) =>
    el(i ? "td" : "th", { scope: i ? null : "row", class: kinds[i] ?? "number" }, cell));
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    el("table", { class: "ledger" }, el("caption", {}, caption),
      el("thead", {}, el("tr", {}, heads.map((head, i) =>
        el("th", { scope: "col", class: kinds[i] ?? "number" }, head)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, cells(row))))));
}

/** The table, with a row of a chart in its second column. */
function results({ verdicts, controls, steps }) {
  const all = [...controls, ...verdicts];
  const bySkill = all.some(({ skill }) => skill !== null);
  const shown = (one) => (bySkill ? one.skills : one.comparable === false ? [] : one.losses.map(real));
  const axis = span(all.flatMap(shown), bySkill);
  const band = controls.slice(0, 2).flatMap(shown).filter(Number.isFinite);
  const row = (one, name, ...rest) => [name, plot(shown(one), band, axis), percent(one.skill),
    one.comparable === false ? "other units" : spread(one), ...rest];
  const seeds = Math.max(...all.map(({ losses }) => losses.length));
  const format = bySkill ? percent : number;
  return el("div", {}, grid(`${count(steps, "step")} each on the same batches, ${count(seeds, "seed")}`,
    ["", el("div", { class: "ends" }, el("span", {}, format(axis.low)),
      bySkill ? "skill →" : `← loss${axis.log ? " (log)" : ""}`, el("span", {}, format(axis.high))),
    "skill", "loss", "bits", "catches up", "cost"],
    [...controls.map((one) => row(one, one.name, "", "", "")), ...verdicts.map((one) =>
      row(one, [one.recommended ? "✓ " : "", el("code", {}, one.name)],
        one.bits === null ? "" : signed(real(one.bits)),
        one.comparable ? (one.match === null ? "never" : `${one.match} steps`) : "",
        `${change(one.time)} time, ${change(one.weights)} weights`))], ["label", "plot"]),
  el("p", { class: "muted" }, "Dot: median; line: all seeds; grey: untreated and new weights. Skill: 0% is the ",
    "best constant answer, 100% the perfect one. Bits: what the first layer's gradient gains. Catches up: ",
    "when its loss is what untreated ends with. Cost: time per step, trainable weights."));
}

/** The dot and its line, over the band of the controls; what is not finite is said. */
function plot(values, band, axis) {
  const finite = values.filter(Number.isFinite).sort((a, b) => a - b);
  const bar = (kind, ...ends) => {
    const [left, right] = ends.map(axis.place);
    const mark = el("span", { class: kind });
    Object.assign(mark.style, { left: `${left}%`, width: `${right - left}%` });
    return mark;
  };
  const middle = finite[finite.length >> 1];
  return el("div", { "aria-hidden": "true" },
    band.length ? bar("band", Math.min(...band), Math.max(...band)) : null,
    finite.length ? [bar("range", finite[0], finite.at(-1)), bar("dot", middle, middle)] : null,
    finite.length < values.length ? el("b", {}, "✕ not finite") : null);
}

function span(values, bySkill) {
  const finite = values.filter(Number.isFinite);
  let [low, high] = bySkill || !finite.length ? [Math.min(0, ...finite), 1]
    : [Math.min(...finite), Math.max(...finite)];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  const log = !bySkill && low > 0 && high / low > WIDE;
  const at = log ? Math.log : (value) => value;
  return { log, low, high, place: (value) => (100 * (at(value) - at(low))) / (at(high) - at(low)) };
}

function spread({ loss, losses }) {
  const values = losses.map(real);
  const half = (Math.max(...values) - Math.min(...values)) / 2;
  return number(real(loss)) + (values.length > 1 && half < Infinity ? ` ± ${Number(half.toPrecision(1))}` : "");
}

function percent(share) {
  return share === null ? "" : `${Math.round(100 * share)}%`;
}

function change(share) {
  return `${real(share) > 0 ? "+" : ""}${percent(real(share))}`;
}
