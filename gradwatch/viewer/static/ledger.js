// The ledger of an exam: where between the loss and the first layer the bits are lost.

import { count, el, real, section, signed } from "./dom.js";
import { grow, tree } from "./tree.js";

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
    ...entry, bits: real(bits[i]), title: `${entry.kind}: ${entry.layers.join(", ")}`,
  }));
  for (const entry of [...run].reverse()) entry.last = signed(level += entry.bits);
  return el("div", {},
    el("p", {}, el("b", {}, `${signed(level)} bits`),
      " from the model's output to its first layer. ",
      el("span", { class: "muted" }, "−1 bit: the gradient halves; +1 bit: it doubles. ",
        el("span", { class: "lost swatch" }), " lost ", el("span", { class: "gained swatch" }), " gained")),
    el("div", { class: "two" },
      tree("By kind of layer", ["kind", "bits", "each"], kinds(run), MIN_SCALE),
      tree(`In execution order: ${count(run.length, "line")}`, ["layer", "bits", "from output"],
        grow(run), MIN_SCALE)));
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
  return [...found.values()].map(({ kind, bits, layers }) => ({
    bits, label: kind, title: layers.join(", "),
    about: layers.length > 1 ? ` × ${layers.length}` : "",
    last: layers.length > 1 ? signed(bits / layers.length, 2) : "",
  })).sort((a, b) => Math.abs(b.bits) - Math.abs(a.bits));
}
