// The ledger of the latest exam: where between the loss and the first layer the bits are lost.

import { count, el, section, signed } from "./dom.js";

/** Bits of the longest bar, at least: a healthy network's bars are short. */
const MIN_SCALE = 4;

/** Return the section. */
export function ledger({ step, total, kinds, entries }) {
  if (!entries.length) {
    const why = step === null ? "No step was examined." :
      `The exam of step ${step} has no gradient to account for.`;
    return section("ledger", "Where the gradient's bits go", el("p", {}, why));
  }
  let level = 0;
  const run = entries.map((entry) => ({
    ...entry, label: name(entry.layers), title: `${entry.kind}: ${entry.layers.join(", ")}`,
  }));
  for (const entry of [...run].reverse()) entry.level = level += entry.bits;
  const byKind = kinds.map((kind) => ({
    ...kind,
    label: kind.layers.length > 1 ? `${kind.kind} × ${kind.layers.length}` : kind.kind,
    title: kind.layers.join(", "),
  })).sort((a, b) => Math.abs(b.bits) - Math.abs(a.bits));
  return section("ledger", "Where the gradient's bits go",
    el("p", {}, el("b", {}, `${signed(total)} bits`),
      ` from the model's output to its first layer, in the exam of step ${step}. `,
      el("span", { class: "muted" }, "−1 bit: the gradient halves; +1 bit: it doubles. ",
        el("span", { class: "lost swatch" }), " lost ", el("span", { class: "gained swatch" }), " gained")),
    el("div", { class: "two" },
      table("By kind of layer", ["kind", "bits", "each"], byKind, (kind) =>
        kind.layers.length > 1 ? signed(kind.bits / kind.layers.length, 2) : ""),
      table(`In execution order: ${count(run.length, "line")}`,
        ["layer", "bits", "from output"], run, (entry) => signed(entry.level))));
}

function table(caption, heads, rows, last) {
  const largest = rows.reduce((size, { bits }) => Math.max(size, Math.abs(bits)), MIN_SCALE);
  const body = rows.map((row) => {
    const bar = el("span", { class: row.bits < 0 ? "lost" : "gained" });
    bar.style.width = `${(100 * Math.abs(row.bits)) / largest}%`;
    return el("tr", { title: `${row.title}\n${signed(row.bits, 3)} bits` },
      el("th", { scope: "row" }, el("bdi", {}, row.label)),
      el("td", { class: "number" }, signed(row.bits)),
      el("td", { class: "number muted" }, last(row)),
      el("td", { class: "bars" }, bar));
  });
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    el("table", { class: "ledger" }, el("caption", {}, caption),
      el("thead", {}, el("tr", {}, heads.map((head, i) =>
        el("th", { scope: "col", class: i ? "number" : "" }, head)), el("td"))),
      el("tbody", {}, body)));
}

function name(layers) {
  if (layers.length <= 2) return layers.join(", ");
  return `${layers[0]} … ${layers.at(-1)}`;
}
