// What is wrong, why, and what to try: words.

import { count, el, number, prose, real, section, signed } from "./dom.js";

const SIGNS = { critical: "✕", warning: "!", note: "i", healthy: "✓", unknown: "?" };
/** Layers that are named; of more, the rest is one click away. */
const MAX_NAMED = 6;

/** Return the top of the page: the verdict in one sentence. */
export function verdict(data) {
  const moving = { true: "yes", false: "no", null: "not known" }[data.progress.moving];
  const size = data.step < 0 ? "" : ` · step ${data.step}`;
  const about = [data.model, data.run && ` · ${data.run}`, size].filter(Boolean).join("");
  return el("header", { class: `verdict ${data.severity}` },
    badge(data.severity),
    el("div", {},
      el("p", { class: "about" }, el("b", {}, "gradwatch"), " ", el("bdi", {}, about)),
      el("h1", {}, prose(data.verdict)),
      el("p", { class: "progress" },
        el("b", {}, "Does it learn? "), moving, ": ", prose(data.progress.text), ".")));
}

/** Return the section of findings. */
export function findings(list) {
  const cards = list.map((finding, i) => el("article",
    { id: `finding-${i + 1}`, class: finding.severity, tabindex: "-1" },
    el("h3", {}, badge(finding.severity), `${i + 1}. ${finding.severity}: ${finding.name}`,
      el("span", { class: "muted when" }, since(finding))),
    // The verdict has already said what the first one is.
    i ? el("p", {}, prose(finding.summary)) : null,
    finding.layers.length ? el("p", {}, el("b", {}, "where "), places(finding.layers)) : null,
    finding.causes.length ? causes(finding.causes) : null,
    finding.confidence ? el("p", { class: "muted" }, "Rests on: ", prose(finding.confidence)) : null,
    numbers(finding.numbers)));
  return section("findings", "Findings", cards.length ? cards : el("p", {}, "None."));
}

/** Return the section of changes to try; the first one is open where none was measured. */
export function prescriptions(list, measured) {
  if (!list.length) return null;
  return section("try", "What to try, one at a time", measured ? null : el("p", { class: "muted" },
    "None of these was measured on this model; ", el("code", {}, "gradwatch.trial"), " does that."),
  list.map((each, i) =>
    el("details", i || measured ? {} : { open: "" },
      el("summary", {}, `${i + 1}. ${each.title}`,
        each.fate ? el("span", { class: "muted when" }, each.fate) : null),
      el("p", { class: "muted" },
        each.answers ? `for ${each.answers}; ` : "",
        each.per_step ? "between backward() and optimizer.step()" : "before training",
        each.runnable ? "" : "; adapt it by hand, the place is no module",
        ". More: ", el("code", {}, `gradwatch explain ${each.remedy}`)),
      code(each.code))));
}

/** Return the section of what is zero as it should be. */
export function waivers(list) {
  if (!list.length) return null;
  return section("waivers", "Not counted, and why",
    el("ul", {}, list.map(({ parameters, reason }) => el("li", {},
      places(parameters, "parameter"), parameters.length ? ": " : "", prose(reason)))));
}

/** Return the section of what was not covered. */
export function notes(list) {
  if (!list.length) return null;
  return section("notes", "Not covered",
    el("ul", {}, list.map((note) => el("li", {}, prose(note)))));
}

export function badge(severity) {
  return el("span", { class: `badge ${severity}`, "aria-hidden": "true" }, el("span", {}, SIGNS[severity]));
}

function since({ since, until }) {
  return until > since ? `steps ${since} to ${until}` : `step ${since}`;
}

function places(layers, what = "layer") {
  const names = (list) => list.flatMap((layer, i) => [i ? ", " : "", el("code", {}, layer)]);
  if (layers.length <= MAX_NAMED) return names(layers);
  return el("details", { class: "inline" }, el("summary", {},
    names(layers.slice(0, 2)), " … ", el("code", {}, layers.at(-1)), ` (${count(layers.length, what)})`),
    names(layers));
}

function causes(list) {
  return el("table", { class: "causes" },
    el("thead", {}, el("tr", {}, ["why", "bits", "share", ""].map((head, i) =>
      el("th", { scope: "col", class: i === 1 || i === 2 ? "number" : "" }, head)))),
    el("tbody", {}, list.map((cause) => {
      const share = real(cause.share);
      const meter = el("span");
      meter.style.width = `${100 * Math.min(1, Math.max(0, share ?? 0)) || 0}%`;
      return el("tr", {},
        el("th", { scope: "row" }, cause.name),
        el("td", { class: "number" }, cause.bits === null ? "" : signed(real(cause.bits))),
        el("td", { class: "number" }, share === null ? "" :
          [`${Math.round(100 * share)}%`, el("span", { class: "meter", "aria-hidden": "true" }, meter)]),
        el("td", {}, prose(cause.text),
          cause.layers.length ? el("div", { class: "muted" }, places(cause.layers)) : null));
    })));
}

function numbers(values) {
  const list = Object.entries(values);
  if (!list.length) return null;
  return el("details", {}, el("summary", {}, "Numbers"), el("dl", {}, list.map(([name, value]) =>
    [el("dt", {}, name.replaceAll("_", " ")), el("dd", {}, number(real(value)))])));
}

export function code(text) {
  const block = el("pre", { tabindex: "0" }, el("code", {}, text));
  const button = el("button", { type: "button", async click() {
    const done = await copy(text, block);
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  } }, "Copy");
  return el("div", { class: "code" }, button, block);
}

/** Copy a text; where the browser does not let us, select it for the reader to do so. */
async function copy(text, block) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(block);
    return document.execCommand("copy");
  }
}
