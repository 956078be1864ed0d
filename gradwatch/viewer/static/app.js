// The page of one run. `render` takes the data that the report carries, or that a server sends.

import { el } from "./dom.js";
import { findings, notes, prescriptions, verdict, waivers } from "./findings.js";
import { ledger } from "./ledger.js";
import { timeline } from "./timeline.js";
import { fromHash, toHash } from "./view.js";

/** Put the page of a run into an element, and say so in its `data-gw-ready`; `changed` is told of
 * every other view. `draw` is for other colours, `stop` for when another page follows. */
export async function render(root, data, view, changed) {
  const books = ledger(data.ledgers, view.step, (step) => changed(Object.assign(view, { step })));
  const chart = await timeline(data.pulse, data.findings, view, changed, books.choose)
    .catch((error) => ({
      element: el("p", { class: "warning" }, `The numbers could not be unpacked: ${error.message}`),
      draw() {},
    }));
  const open = [...root.querySelectorAll("details")].map((details) => details.open);
  root.replaceChildren(
    verdict(data),
    el("main", {}, ...[
      findings(data.findings), prescriptions(data.prescriptions), chart.element,
      books.element, waivers(data.waivers), notes(data.notes),
    ].filter(Boolean)),
    el("footer", { class: "muted" }, `gradwatch ${data.gradwatch}`));
  const details = root.querySelectorAll("details");
  if (details.length === open.length) details.forEach((each, i) => { each.open = open[i]; });
  let width = 0;
  const observer = new ResizeObserver(() => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    requestAnimationFrame(chart.draw);
  });
  observer.observe(root);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", chart.draw);
  chart.draw();
  root.dataset.gwReady = "";
  return { draw: chart.draw, stop() {
    observer.disconnect();
    dark.removeEventListener("change", chart.draw);
  } };
}

const island = document.getElementById("gradwatch-data");
if (island) {
  render(document.getElementById("gradwatch"), JSON.parse(island.textContent),
    fromHash(location.hash), (view) => history.replaceState(null, "", toHash(view)));
}
