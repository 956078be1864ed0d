// What is looked at, as a link carries it: run, the one beside it, rows, range of steps, chosen step and
// layer. In the form in which TensorBoard leaves the address of its page alone: the tab's name, then its
// parameters.

const PREFIX = "p.gradwatch.";

/** Read a view out of the hash of an address. */
export function fromHash(hash) {
  const given = new URLSearchParams(hash.slice(1));
  const text = (name) => given.get(PREFIX + name) ?? undefined;
  const whole = (name) => (/^\d{1,15}$/.test(text(name)) ? Number(text(name)) : undefined);
  const [run, other, by, layer] = ["run", "with", "by", "layer"].map(text);
  return { run, with: other, by, layer, from: whole("from"), to: whole("to"), step: whole("step") };
}

/** Write a view as such a hash. */
export function toHash(view) {
  const known = Object.entries(view).filter(([, value]) => value !== undefined && value !== null);
  return ["#gradwatch", ...known.map(([name, value]) =>
    `${PREFIX}${name}=${encodeURIComponent(value)}`)].join("&");
}
