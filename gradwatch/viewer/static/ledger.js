// The ledger of an exam: where between the loss and the first layer the bits are lost.

import { count, el, real, section, signed } from "./dom.js";

/** Bits of the longest bar, at least: a healthy network's bars are short. */
const MIN_SCALE = 4;
const TITLE = "Where the gradient's bits go";

/** Return the section, and `choose`, which shows the exam of a step or the last one before it.
 * `told` hears of the exam that the reader has chosen here. */
export function ledger({ layouts, exams }, step, told) {
  if (!exams.length) {
    const why = "No step was examined, or none has a gradient to account for.";
    return { element: section("ledger", TITLE, el("p", {}, why)), choose() {} };
  }
  const books = el("div");
  const choice = el("select", { "aria-label": "Exam", change() {
    choose(Number(choice.value));
    told(Number(choice.value));
  } }, exams.map((exam) => el("option", { value: exam.step }, exam.step)));
  function choose(wanted) {
    const exam = exams.findLast((each) => each.step <= wanted) ?? exams[0];
    choice.value = exam.step;
    books.replaceChildren(page(exam, layouts[exam.layout]));
  }
  choose(step ?? Infinity);
  return { choose, element: section("ledger", TITLE,
    el("p", {}, "The exam of step ", choice), books) };
}

function page({ bits }, layout) {
  let level = 0;
  const run = layout.map((entry, i) => ({
    ...entry, bits: real(bits[i]), label: name(entry.layers),
    title: `${entry.kind}: ${entry.layers.join(", ")}`,
  }));
  for (const entry of [...run].reverse()) entry.level = level += entry.bits;
  return el("div", {},
    el("p", {}, el("b", {}, `${signed(level)} bits`),
      " from the model's output to its first layer. ",
      el("span", { class: "muted" }, "−1 bit: the gradient halves; +1 bit: it doubles. ",
        el("span", { class: "lost swatch" }), " lost ", el("span", { class: "gained swatch" }), " gained")),
    el("div", { class: "two" },
      table("By kind of layer", ["kind", "bits", "each"], kinds(run), (kind) =>
        kind.layers.length > 1 ? signed(kind.bits / kind.layers.length, 2) : ""),
      table(`In execution order: ${count(run.length, "line")}`,
        ["layer", "bits", "from output"], run, (entry) => signed(entry.level))));
}

/** The entries added up by the kind of their layers, the largest sum first. */
function kinds(run) {
  const found = new Map();
  for (const { kind, bits, layers } of run) {
    const sum = found.get(kind) ?? { kind, bits: 0, layers: [] };
    sum.bits += bits;
    sum.layers.push(layers[0]);
    found.set(kind, sum);
  }
  return [...found.values()].map((sum) => ({
    ...sum,
    label: sum.layers.length > 1 ? `${sum.kind} × ${sum.layers.length}` : sum.kind,
    title: sum.layers.join(", "),
  })).sort((a, b) => Math.abs(b.bits) - Math.abs(a.bits));
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
