// The tab: which run is shown, in which colours, and the data anew while it is written.

import { render as page } from "./app.js";
import { el } from "./dom.js";
import { fromHash, toHash } from "./view.js";

/** Between two questions whether there is anything new: milliseconds, and times of what one took. */
const [PAUSE, SHARE] = [3000, 10];

/** TensorBoard's own page around this frame; this page itself where it was opened alone. */
const outer = window.parent;

/** Called by TensorBoard once. */
export async function render() {
  const root = el("div", { id: "gradwatch" });
  const say = el("span", { class: "muted", role: "status" });
  const choice = el("select", { "aria-label": "Run", change: () => open(choice.value) });
  const against = el("select", { "aria-label": "Compare with",
    change: () => open(view.run, { ...view, with: against.value || undefined }) });
  const search = el("input", { type: "search", input: list });
  let [runs, view, version, shown, loading] = [[], fromHash(outer.location.hash), "", null, null];
  let coarse = true; // whether to look closer takes other data
  await sheet();
  document.body.append(el("nav", {}, el("label", {}, "run ", choice),
    el("label", {}, "compare with ", against), el("label", {}, "search ", search), say), root);
  document.addEventListener("click", jump);
  follow(() => shown?.draw());
  outer.addEventListener("hashchange", () => {
    const next = fromHash(outer.location.hash);
    if (next.run && toHash(next) !== toHash(view)) open(next.run, next);
  });
  await turn();

  /** Ask, wait, ask again; a tab that is not looked at asks nothing. */
  async function turn() {
    const begin = performance.now();
    if (!document.hidden && document.body.clientWidth) await refresh();
    setTimeout(turn, Math.max(PAUSE, SHARE * (performance.now() - begin)));
  }

  async function refresh() {
    try {
      const known = (await (await fetch("runs")).json()).runs;
      if (known.join("\n") !== runs.join("\n")) {
        runs = known;
        list();
      }
      if (!runs.length) return empty();
      if (!runs.includes(view.run)) {
        // A link to a run that is gone shows no other.
        if (view.run) return (say.textContent = `no run of this name: ${view.run}`);
        view = { ...view, run: runs[0] };
        list();
      }
      await load();
    } catch (error) {
      say.textContent = `not up to date: ${error.message}`;
    }
  }

  async function load() {
    const { run } = view;
    const other = runs.includes(view.with) ? view.with : "";
    const wanted = JSON.stringify([run, other]);
    if (loading === wanted) return;
    loading = wanted;
    try {
      const query = new URLSearchParams({ run, seen: version });
      if (other) query.set("with", other);
      for (const end of coarse ? ["from", "to"] : []) if (view[end]) query.set(end, view[end]);
      const answer = await fetch(`data?${query}`, { cache: "no-store" });
      if (!answer.ok) throw new Error(await answer.text());
      const data = await answer.json();
      if (loading !== wanted || !data.gradwatch) return;
      const top = window.scrollY;
      const scroller = root.querySelector(".scroller");
      const [rows, focused] = [scroller?.scrollTop, document.activeElement?.ariaLabel];
      shown?.stop();
      shown = await page(root, data, view, wrote);
      window.scrollTo(0, top);
      const anew = root.querySelector(".scroller");
      if (anew && version) anew.scrollTop = rows ?? 0;
      const named = [...document.querySelectorAll("[aria-label]")];
      if (focused) named.find((each) => each.ariaLabel === focused)?.focus();
      coarse = data.pulse.merged > 1 || data.pulse.part;
      version = answer.headers.get("ETag").slice(1, -1);
      root.dataset.gwRun = run;
      root.dataset.gwWith = other;
      say.textContent = `as of ${new Date().toLocaleTimeString()}`
        + (view.with && !other ? `; no run of this name: ${view.with}` : "");
    } finally {
      if (loading === wanted) loading = null;
    }
  }

  async function open(run, next = { run, by: view.by, with: view.with === run ? undefined : view.with }) {
    view = { ...next, run };
    [version, coarse] = ["", true];
    list();
    wrote(view);
    say.textContent = "reading …";
    window.scrollTo(0, 0);
    await load().catch((error) => { say.textContent = `not shown: ${error.message}`; });
  }

  function list() {
    const found = runs.filter((run) => run.toLowerCase().includes(search.value.toLowerCase()));
    for (const [select, value] of [[choice, view.run], [against, view.with]]) {
      const shown = found.filter((run) => select === choice || run !== view.run);
      if (value && !shown.includes(value)) shown.unshift(value);
      select.replaceChildren(...shown.map((run) => el("option", { value: run }, run)));
      if (select === against) select.prepend(el("option", { value: "" }, "no other"));
      select.value = value ?? "";
    }
  }

  function empty() {
    say.textContent = "";
    root.replaceChildren(el("section", {}, el("h1", {}, "No run was recorded here yet."),
      el("p", {}, el("code", {}, 'gradwatch.watch(model, optimizer, log_dir="runs/a")'), " records one.")));
    root.dataset.gwReady = "";
  }

  function wrote(next) {
    view = { ...next, run: view.run };
    outer.history.replaceState(outer.history.state, "", toHash(view));
    if (coarse && shown) refresh();
  }
}

/** Load the style: what is drawn needs its colours. */
function sheet() {
  const href = new URL("style.css", import.meta.url).href;
  return new Promise((resolve) => {
    document.head.append(el("link", { rel: "stylesheet", href, load: resolve, error: resolve }));
  });
}

/** Go to a place of this page: TensorBoard's base address would lead a link away from it. */
function jump(event) {
  const href = event.target.closest?.("a")?.getAttribute("href");
  if (!href?.startsWith("#")) return;
  event.preventDefault();
  const place = document.getElementById(href.slice(1));
  place?.scrollIntoView();
  place?.focus();
}

/** Have TensorBoard's colours, whatever the system's are. */
function follow(draw) {
  if (outer === window) return;
  const rules = [...document.styleSheets].flatMap((each) => [...each.cssRules]);
  const dark = rules.filter((rule) => rule instanceof CSSMediaRule
    && rule.conditionText.includes("prefers-color-scheme"));
  const paint = () => {
    const on = outer.document.body.classList.contains("dark-mode");
    for (const rule of dark) rule.media.mediaText = on ? "all" : "not all";
    document.documentElement.style.colorScheme = on ? "dark" : "light";
    draw();
  };
  new MutationObserver(paint).observe(outer.document.body, { attributeFilter: ["class"] });
  paint();
}
