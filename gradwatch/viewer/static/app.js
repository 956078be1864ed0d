// The page of one run. `render` takes the data that the report carries, or that a server sends.

import { comparison } from "./compare.js";
import { el } from "./dom.js";
import { findings, notes, prescriptions, verdict, waivers } from "./findings.js";
import { ledger } from "./ledger.js";
import { ratios } from "./ratio.js";
import { ridges } from "./ridge.js";
import { timeline } from "./timeline.js";
import { trial } from "./trial.js";
import { fromHash, toHash } from "./view.js";

/** Put the page of a run into an element, and say so in its `data-gw-ready`; `changed` is told of
 * every other view. `draw` is for other colours, `stop` for when another page follows. */
export async function render(root, data, view, changed) {
  const books = ledger(data.ledgers, view.step, (step) => changed(Object.assign(view, { step })));
  const charts = await Promise.all([
    timeline(data.pulse, data.findings, view, changed, (step, layer) => {
      books.choose(step);
      choose(layer);
    }), ridges(data.octaves, choose), ratios(data.updates, choose),
  ]).catch((error) => [{
    element: el("p", { class: "warning" }, `The numbers could not be unpacked: ${error.message}`),
    draw() {},
  }]);
  const beside = comparison(data.beside);
  const draw = () => [beside, ...charts].forEach((chart) => chart.draw());

  /** Show a layer in the charts of layers. */
  function choose(layer) {
    for (const chart of charts) chart.choose?.(layer);
    if (layer !== view.layer) changed(Object.assign(view, { layer }));
  }

  const folds = "details:not(.tree details)";
  const open = [...root.querySelectorAll(folds)].map((details) => details.open);
  root.replaceChildren(
    verdict(data),
    el("main", {}, ...[
      beside.element, findings(data.findings), trial(data.trial),
      prescriptions(data.prescriptions, data.trial), ...charts.map((chart) => chart.element),
      books.element, waivers(data.waivers), notes(data.notes),
    ].filter(Boolean)),
    el("footer", { class: "muted" }, `gradwatch ${data.gradwatch}`));
  const named = [view.layer, ...data.findings.flatMap(({ layers }) => layers), ...data.pulse.layers];
  const first = named.find((layer) => data.octaves.layers.includes(layer)) ?? data.octaves.layers[0];
  for (const chart of charts) chart.choose?.(view.layer ?? first);
  const details = root.querySelectorAll(folds);
  if (details.length === open.length) details.forEach((each, i) => { each.open = open[i]; });
  let width = 0;
  const observer = new ResizeObserver(() => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    requestAnimationFrame(draw);
  });
  observer.observe(root);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", draw);
  draw();
  root.dataset.gwReady = "";
  return { draw, stop() {
    observer.disconnect();
    dark.removeEventListener("change", draw);
  } };
}

const island = document.getElementById("gradwatch-data");
if (island) {
  render(document.getElementById("gradwatch"), JSON.parse(island.textContent),
    fromHash(location.hash), (view) => history.replaceState(null, "", toHash(view)));
}
