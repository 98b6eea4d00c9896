// What a drawing is made of: elements, lines, and text with its boxes.

export const SVG = "http://www.w3.org/2000/svg";
export const WIRE = 44; // pixels: height of the lines of a fork and of a join, as in page.css
const BEND = 14; // radius of their corners

export function make(tag, name = "", text = "") {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text) node.textContent = text;
  return node;
}

// From the top at x = `from` down, across and down to the bottom at x = `to`.
export function line(from, to) {
  const bend = Math.min(BEND, Math.abs(to - from) / 2);
  const [side, half] = [Math.sign(to - from) * bend, WIRE / 2];
  const [out, back] = [`Q${from} ${half} ${from + side} ${half}`, `Q${to} ${half} ${to} ${half + bend}`];
  return `M${from} 0V${half - bend}${out}H${to - side}${back}V${WIRE}`;
}

// The text of a card, what stands in \boxed{} in a box. A path is followed to its end unless the reader scrolled back.
export function paint(card, done) {
  const { node, pre, lane } = card;
  const body = lane?.body;
  const follows = body && !done && body.scrollHeight - body.scrollTop - body.clientHeight < 40;
  const text = card.text.replace(/^\s+/, "").replace(done ? /\s+$/ : /$^/, "");
  node.classList.toggle("blank", !text);
  pre.replaceChildren(...boxes(text));
  if (follows) body.scrollTop = body.scrollHeight;
}

function* boxes(text) {
  let done = 0;
  for (const found of text.matchAll(/\\boxed\s*\{/g)) {
    const start = found.index + found[0].length;
    let [at, depth] = [start, 1];
    for (; at < text.length && depth; at += 1)
      depth += text[at - 1] === "\\" ? 0 : ({ "{": 1, "}": -1 }[text[at]] ?? 0);
    if (depth || found.index < done) continue;
    yield text.slice(done, found.index);
    yield make("span", "boxed", text.slice(start, at - 1).trim());
    done = at;
  }
  yield text.slice(done);
}
