// Bits as lines with bars, some of which unfold into others: the ledger along the tree of modules.

import { count, el, signed } from "./dom.js";

/** Lines that are shown before anything is unfolded. */
const UNFOLDED = 30;
/** What the reader has folded and unfolded: the page is made anew while a run is written. */
const wished = new Map();

/** Return the lines: { label, bits, last: a word after them, title } and, where one unfolds, `parts`
 * and a `key`. `least` is what the longest bar stands for, at least. */
export function tree(title, heads, top, least) {
  let [level, shown] = [top, top.length];
  while (level.length) {
    const below = level.flatMap(({ parts }) => parts ?? []);
    shown += below.length;
    for (const node of level) node.open = wished.get(node.key) ?? shown <= UNFOLDED;
    level = below;
  }
  const lines = el("div", { class: "scroll tree", tabindex: "0", role: "group", "aria-label": title },
    el("b", {}, title), el("div", { class: "node muted" }, heads.map((head, i) =>
      el("span", { class: i ? "number" : "" }, head))),
    top.map((node) => line(node, top.some(({ parts }) => parts) ? 1 : 0)));
  scale();

  function line(node, depth) {
    const { key, bits, parts, open } = node;
    const bar = el("span", { class: bits < 0 ? "lost" : "gained" });
    bar.style.width = `calc(100% * ${Math.abs(bits)} / var(--most))`;
    const name = el("span", {}, el("bdi", {}, node.label), el("span", { class: "muted" }, node.about ?? ""));
    name.style.paddingLeft = `${14 * depth}px`;
    const below = () => parts.map((part) => line(part, depth + 1));
    const cells = [{ class: "node", title: `${node.title}\n${signed(bits, 3)} bits` }, name,
      el("span", { class: "number" }, signed(bits)), el("span", { class: "number muted" }, node.last),
      el("span", { class: "bars" }, bar)];
    if (!parts) return el("div", ...cells);
    return el("details", { open: open ? "" : null, toggle({ target }) {
      wished.set(key, node.open = target.open);
      if (target.open && target.children.length === 1) target.append(...below());
      scale();
    } }, el("summary", ...cells), open ? below() : null);
  }

  /** Of what is unfolded the parts have bars: fit the longest of those that are seen. */
  function scale() {
    const seen = (parts) => parts.flatMap((node) =>
      (node.parts && node.open ? seen(node.parts) : [Math.abs(node.bits)]));
    lines.style.setProperty("--most", seen(top).reduce((most, size) => Math.max(most, size), least));
  }

  return lines;
}

/** Put entries below the modules they belong to; a module comes again where others ran in between. */
export function grow(run) {
  const root = { key: "", parts: [] };
  for (const entry of run) {
    const paths = entry.layers.map((layer) => layer.split(/(?=:)/).flatMap((part) => part.split(".")));
    let [node, depth] = [root, 0];
    for (; paths.every((path) => depth < path.length - 1 && path[depth] === paths[0][depth]); depth++) {
      const label = paths[0][depth];
      const last = node.parts.at(-1);
      const next = last?.parts && last.label === label ? last
        : { key: joined([node.key, label]), label, parts: [] };
      if (next !== last) node.parts.push(next);
      node = next;
    }
    const names = paths.map((path) => joined(path.slice(depth)));
    const label = names.length > 2 ? `${names[0]} … ${names.at(-1)}` : names.join(", ");
    const last = node.parts.at(-1);
    // What a module does besides calling its parts is one of them.
    if (last?.parts && last.label === label) last.parts.push({ ...entry, label: "(itself)" });
    else node.parts.push({ ...entry, label });
  }
  return root.parts.map(settle);
}

/** Add up; what has one part alone is written in one line with it. */
function settle({ parts, ...node }) {
  if (!parts) return node;
  parts = parts.map(settle);
  if (parts.length === 1) return { ...parts[0], label: joined([node.label, parts[0].label]) };
  const lines = parts.reduce((sum, part) => sum + (part.lines ?? 1), 0);
  return { ...node, parts, lines, about: ` (${lines})`, last: parts[0].last,
    title: `${node.key}: ${count(lines, "line")}`, bits: parts.reduce((sum, { bits }) => sum + bits, 0) };
}

function joined(path) {
  return path.reduce((name, part) =>
    (name && part && !part.startsWith(":") ? `${name}.${part}` : name + part), "");
}
