// Two runs side by side: A is the one of this page, B the other.

import { el, number, prose, real, section, signed } from "./dom.js";
import { Steps } from "./scale.js";
import { drawLoss } from "./loss.js";
import { badge } from "./findings.js";
import { grid } from "./trial.js";

const LETTERS = ["A", "B"];
/** CSS pixels for the numbers of the loss. */
const LEFT = 64;
const WHERE = {
  new: "only in B", gone: "only in A", same: "in both", worse: "in both, worse in B", better: "in both, milder in B",
};

/** Return the section, null without another run; `draw` it again for another width or colours. */
export function comparison(data) {
  if (!data) return { element: null, draw() {} };
  const show = (...content) => section("beside", "Two runs side by side", ...content);
  if (data.problem) return { element: show(el("p", {}, data.problem)), draw() {} };
  const losses = lossChart(data.loss);
  const { step } = data;
  const more = (others) => (others ? `Not shown: ${others} that differ less.` : "");
  return { draw: losses.draw, element: show(
    el("p", {}, el("b", {}, `${data.headline}.`)),
    el("div", { class: "two" }, data.runs.map((run, i) => el("article", { class: run.severity },
      el("h3", {}, badge(run.severity), el("bdi", {}, `${LETTERS[i]}: ${run.name}`)),
      el("p", { class: "muted" }, `${run.model}${run.step < 0 ? "" : ` · step ${run.step}`}`),
      el("p", {}, prose(run.verdict)), el("p", {}, "Progress: ", prose(run.progress), ".")))),
    grid(`Findings: ${data.found}`, ["", "A", "B", "found"], data.findings.map((each) => [
      el("div", {}, el("b", {}, each.name), el("div", { class: "muted" }, prose(each.summary))),
      ...each.severity.map((severity) => (severity
        ? el("span", { class: severity }, badge(severity), severity) : "–")), WHERE[each.kind]]), ["", "nowrap", "nowrap", "nowrap"]),
    losses.element,
    grid(`Layers as of step ${step}`, ["layer", "gradient A", "B", "B ÷ A", "update A", "B", "B ÷ A"],
      data.layers.map(([name, ...values]) => [el("bdi", {}, name), ...values.map((value, i) => (i % 3 < 2 ? amount : bits)(value))]), ["label"]),
    el("p", { class: "muted" }, "Medians of the latest exams. Gradient: root mean square. Update: rms of a step's ",
      "update ÷ rms of the weights. B ÷ A in bits: +1 is twice as much in B. ", more(data.moreLayers)),
    grid(`Ledger as of step ${step}`, ["layer", "kind", "bits A", "bits B", "B − A"],
      data.ledger.map(([label, kind, a, b]) => [el("bdi", {}, label), kind, bits(a), bits(b),
        bits(a === null || b === null ? null : real(b) - real(a))]), ["label", ""]),
    el("p", { class: "muted" }, "What backpropagation through it does to the gradient. ", more(data.moreLedger)),
    data.only.map((names, i) => (names.length ? el("p", {}, `Only in ${LETTERS[i]}: `, el("code", {}, names.join(", "))) : null)),
    el("ul", {}, data.problems.map((problem) => el("li", {}, problem)))) };
}

/** Both curves over one axis of steps, and a cursor for pointer and keys. */
function lossChart({ steps, merged, losses }) {
  if (!steps.length) return { element: el("p", {}, "No loss is known of either."), draw() {} };
  const canvas = el("canvas", { role: "img", "aria-label": "Loss of A and B" });
  const said = el("output");
  const last = steps.length - 1;
  const cursor = el("input", { type: "range", max: last, value: last, input: tell, "aria-label": "Step" });
  const title = el("b");
  const element = el("div", {}, el("div", { class: "legend" }, title, LETTERS.map((letter) =>
    el("span", { class: "key" }, el("span", { class: `curve ${letter}` }), letter)), cursor, said), canvas);
  let scale = new Steps(steps, merged, 0, 1);
  canvas.addEventListener("pointermove", (event) => {
    [cursor.value] = scale.under(event.offsetX);
    tell();
  });
  tell();
  return { element, draw() {
    scale = new Steps(steps, merged, LEFT, Math.max(40, element.clientWidth - LEFT - 8));
    title.textContent = drawLoss(canvas, losses[0], scale, [], losses[1])
      + (merged > 1 ? `, the largest of ${merged} steps each` : "");
  } };

  function tell() {
    const told = (each) => (each[cursor.value] === null ? "not known" : number(real(each[cursor.value])));
    said.textContent = `${scale.label(Number(cursor.value))}: ${LETTERS.map((letter, i) => `${letter} ${told(losses[i])}`).join(", ")}`;
    cursor.setAttribute("aria-valuetext", said.textContent);
  }
}

function amount(value) {
  const known = real(value);
  if (known === null) return "–";
  return Math.abs(known) < 1e-3 && known ? known.toExponential(2) : number(known);
}

function bits(value) {
  if (value === null) return "–";
  const text = signed(real(value));
  return Math.abs(real(value)) >= 1 ? el("b", {}, text) : text;
}
