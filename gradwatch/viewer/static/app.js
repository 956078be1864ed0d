// The page of one run. `render` takes the data that the report carries, or that a server sends.

import { el } from "./dom.js";
import { findings, notes, prescriptions, verdict, waivers } from "./findings.js";
import { ledger } from "./ledger.js";
import { timeline } from "./timeline.js";

/** Put the page of a run into an element, and say so in its `data-gw-ready`. */
export async function render(root, data) {
  const chart = await timeline(data.pulse, data.findings).catch((error) => ({
    element: el("p", { class: "warning" }, `The numbers could not be unpacked: ${error.message}`),
    draw() {},
  }));
  root.replaceChildren(
    verdict(data),
    el("main", {}, ...[
      findings(data.findings), prescriptions(data.prescriptions), chart.element,
      ledger(data.ledger), waivers(data.waivers), notes(data.notes),
    ].filter(Boolean)),
    el("footer", { class: "muted" }, `gradwatch ${data.gradwatch}`));
  let width = 0;
  new ResizeObserver(() => {
    if (root.clientWidth === width) return;
    width = root.clientWidth;
    requestAnimationFrame(chart.draw);
  }).observe(root);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", chart.draw);
  chart.draw();
  root.dataset.gwReady = "";
}

const island = document.getElementById("gradwatch-data");
if (island) render(document.getElementById("gradwatch"), JSON.parse(island.textContent));
