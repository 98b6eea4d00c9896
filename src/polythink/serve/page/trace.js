// The drawing of one trace from its events, in the order in which they happen:
//   {event: "fork" | "token" | "join" | "cut" | "done", segment, block, path, label, text, finish_reason, ...}
// Main text has block -1; a path of a block has a number from 1, its summary the number 0. A block belongs to the text
// that wrote last before its first fork, unless `parent` ([block, path]) names another. Which texts
// are tags the server says (`format.tags`): nothing is parsed here.

import { line, make, paint, SVG, WIRE } from "./shapes.js";

const LEAST = 148; // pixels that a path needs to stand beside the others
const TOGETHER = 200; // milliseconds in which all paths of a fork have opened

// A run of text: main text, a path, a summary. `end` is the step after its last token.
class Flow {
  constructor(node, kind, end) {
    Object.assign(this, { node, kind, end, card: null, block: null });
  }
}

export class Drawing {
  constructor(root, { announce = () => {}, changed = () => {} } = {}) {
    Object.assign(this, { root, announce, changed });
    this.widths = new ResizeObserver((found) => found.forEach(({ target }) => this.wire(target)));
    this.clear();
  }

  clear(format = { tags: {}, reasons: {} }, question = "") {
    this.widths.disconnect();
    cancelAnimationFrame(this.frame);
    this.format = format;
    const literal = Object.keys(format.tags).map((tag) => tag.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    this.tags = literal.length ? new RegExp(`(${literal.join("|")})`) : /(?!)/;
    this.root.replaceChildren();
    const main = make("div", "flow");
    this.root.append(main);
    this.main = new Flow(main, "main", 0);
    this.flows = new Map([["-1/0", this.main]]);
    this.blocks = new Map();
    this.cards = [];
    this.dirty = new Set();
    this.frame = 0;
    this.last = this.main;
    this.tokens = 0;
    this.totals = null;
    this.done = false;
    if (question) {
      const asked = make("div", "node card prompt");
      asked.append(make("pre", "", question));
      main.append(asked);
    }
  }

  get steps() {
    if (this.totals) return this.totals.critical_path;
    let most = this.main.end;
    for (const flow of this.flows.values()) most = Math.max(most, flow.end);
    return most;
  }

  get drawn() {
    return this.totals ? this.totals.tokens : this.tokens;
  }

  apply(event) {
    const act = {
      fork: this.onFork,
      token: this.onToken,
      join: this.onJoin,
      cut: this.onCut,
      grade: this.onGrade,
      done: this.onDone,
    };
    act[event.event]?.call(this, event);
    this.frame ||= requestAnimationFrame(() => this.flush());
  }

  // ---- events

  onToken(event) {
    const flow = this.flowOf(event);
    this.resume(flow);
    flow.end += 1;
    this.tokens += 1;
    this.last = flow;
    this.write(flow, event);
  }

  // A token may complete characters of those before it, and a tag may stand after them.
  write(flow, event) {
    for (const part of event.text.split(this.tags)) {
      const kind = this.format.tags[part];
      if (kind) this.onTag(flow, event, kind);
      else if (part) {
        const card = this.cardOf(flow, event.segment);
        card.text += part;
        this.dirty.add(card);
      }
    }
  }

  // Tags are not shown: they open and close what is drawn. An outline is a line of the plan.
  onTag(flow, event, kind) {
    if (kind === "plan_open") flow.card = this.addCard(flow, "plan", event.segment, "Plan");
    if (kind === "plan_close") flow.card = null;
    if (kind === "outline_open" && flow.card) flow.card.text += flow.card.text.trim() ? "\n– " : "– ";
    if (kind === "path_close" && flow.lane && !flow.lane.state) this.endLane(flow.lane, "done");
  }

  onFork(event) {
    const parent = event.parent ? this.flows.get(event.parent.join("/")) : this.last;
    const block = this.blocks.get(event.block) ?? this.addBlock(event.block, parent ?? this.main);
    this.laneOf(block, event);
    this.dirty.add(block);
    if (block.lanes.size > 1) return;
    // not after the end: the page says "Stopped" then
    setTimeout(() => this.done || this.announce(`Fork into ${block.lanes.size} paths`), TOGETHER);
  }

  onJoin(event) {
    const block = this.blocks.get(event.block);
    if (!block) return;
    const summary = this.flowOf(event);
    const again = event.reread
      ? `${event.reread} tokens read again`
      : this.format.rereads
        ? "the paths are read again"
        : "";
    if (again) summary.node.prepend(make("div", "node again", again));
  }

  onCut(event) {
    const flow = this.flowOf(event);
    const why = this.format.reasons[event.finish_reason] ?? event.finish_reason;
    if (flow.lane) return this.endLane(flow.lane, "cut", why);
    flow.node.append(make("div", "node note", `Cut: ${why}`));
  }

  onGrade(event) {
    const lane = this.flows.get(`${event.block}/${event.path}`)?.lane;
    lane?.node.classList.add(event.right ? "right" : "wrong");
    if (lane) lane.grade.textContent = event.right ? "✓ right" : "✗ wrong";
  }

  onDone(event) {
    if (event.critical_path !== undefined) this.totals = event;
    this.finish();
  }

  // Nothing more comes: whole, stopped or failed. The answer is the last box outside the paths.
  finish(stopped = false) {
    this.done = true;
    for (const flow of this.flows.values())
      if (flow.lane && !flow.lane.state) this.endLane(flow.lane, stopped ? "stopped" : "done");
    for (const card of this.cards) this.dirty.add(card); // without white space at their ends
    this.flush();
    const outside = [...this.root.querySelectorAll(".boxed")].filter((box) => !box.closest(".lane"));
    this.answer = stopped ? "" : (outside.at(-1)?.textContent ?? "");
    if (this.answer) outside.at(-1).classList.add("answer");
    this.changed();
  }

  // ---- texts

  flowOf(event) {
    const key = `${event.block}/${event.path}`;
    const known = this.flows.get(key);
    if (known) return known;
    const block = this.blocks.get(event.block) ?? this.addBlock(event.block, this.last);
    if (event.path) return this.laneOf(block, event);
    const node = make("div", "flow summary");
    block.node.after(node);
    node.classList.add("node");
    block.summary = new Flow(node, "summary", this.endOf(block));
    this.flows.set(key, block.summary);
    this.join(block);
    return block.summary;
  }

  join(block) {
    for (const lane of block.lanes.values()) if (!lane.state) this.endLane(lane, "done");
    block.node.classList.add("joined");
    this.dirty.add(block);
    this.announce("Join");
  }

  // A text that goes on after a block continues after the latest end of its paths and of its summary.
  resume(flow) {
    if (!flow.block) return;
    flow.end = Math.max(flow.end, this.endOf(flow.block), flow.block.summary?.end ?? 0);
    flow.block = flow.card = null;
  }

  endOf(block) {
    return Math.max(block.start, ...[...block.lanes.values()].map((lane) => lane.flow.end));
  }

  cardOf(flow, segment) {
    if (flow.card && (flow.card.kind === "plan" || flow.card.segment === segment)) return flow.card;
    return (flow.card = this.addCard(flow, flow.kind, segment));
  }

  addCard(flow, kind, segment, title = kind === "summary" ? "Summary" : "") {
    const node = make("div", `node card ${kind} blank`);
    if (title) node.append(make("span", "title", title));
    const pre = make("pre");
    node.append(pre);
    flow.node.append(node);
    const card = { node, pre, text: "", kind, segment, lane: flow.lane };
    this.cards.push(card);
    return card;
  }

  // ---- blocks

  addBlock(number, parent) {
    this.resume(parent);
    const node = make("div", "node fork");
    const lanes = make("div", "lanes");
    const wires = ["out", "in"].map((name) => {
      const svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("class", `wires ${name}`);
      svg.setAttribute("aria-hidden", "true");
      return svg;
    });
    node.append(wires[0], lanes, wires[1]);
    parent.node.append(node);
    const block = { number, node, lanesNode: lanes, wires, lanes: new Map(), start: parent.end, summary: null };
    node.block = block;
    parent.block = block;
    this.blocks.set(number, block);
    this.widths.observe(node);
    return block;
  }

  laneOf(block, event) {
    const number = event.label || event.path;
    const start = this.format.isolated === false ? this.endOf(block) : block.start;
    const node = make("section", "lane running");
    const head = make("div", "head");
    const [name, grade, state] = [
      make("b", "", `Path ${number}`),
      make("span", "grade"),
      make("span", "state", "running"),
    ];
    head.append(name, grade, state);
    const body = make("div", "flow body");
    Object.assign(body, { tabIndex: 0 });
    body.setAttribute("role", "group");
    body.setAttribute("aria-label", `Path ${number}`);
    body.addEventListener("keydown", (pressed) => this.walk(pressed, block, event.path));
    const more = make("button", "more", "Show all");
    Object.assign(more, { type: "button", hidden: true });
    more.addEventListener("click", () => {
      more.textContent = node.classList.toggle("open") ? "Show less" : "Show all";
    });
    body.addEventListener("scroll", () => this.measure(flow.lane), { passive: true });
    node.append(head, body, more);
    block.lanesNode.append(node);
    const flow = new Flow(body, "path", start);
    flow.lane = { node, state: "", stateNode: state, grade, flow, number, body, more };
    block.lanes.set(event.path, flow.lane);
    this.flows.set(`${event.block}/${event.path}`, flow);
    return flow;
  }

  endLane(lane, state, why = "") {
    lane.state = state;
    lane.node.classList.replace("running", state);
    lane.stateNode.textContent = { done: "finished", stopped: "stopped", cut: `cut: ${why}` }[state];
    if (!this.done) this.announce(`Path ${lane.number} ${lane.stateNode.textContent}`);
    this.dirty.add(lane);
  }

  // Arrows left and right go to the neighbouring path.
  walk(pressed, block, path) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[pressed.key];
    const next = step && block.lanes.get(path + step);
    if (!next || pressed.target !== block.lanes.get(path).body) return;
    pressed.preventDefault();
    next.body.focus();
  }

  // ---- painting: once a frame, whatever has changed

  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    for (const thing of this.dirty) {
      if (thing.pre) paint(thing, this.done);
      else if (thing.lanesNode) this.wire(thing.node);
      if (thing.lane ?? thing.body) this.measure(thing.lane ?? thing);
    }
    this.dirty.clear();
    this.changed();
  }

  // A path that is longer than its place says so, and can be opened.
  measure({ node, body, more }) {
    const hidden = body.scrollHeight - body.clientHeight;
    body.classList.toggle("below", hidden - body.scrollTop > 4);
    if (hidden > 4) more.hidden = false;
    else if (!node.classList.contains("open")) more.hidden = true;
  }

  // The lines from the fork to each path and on to the join, where all paths stand beside each other.
  wire(node) {
    const block = node.block;
    const count = block.lanes.size;
    const abreast = count > 0 && node.clientWidth >= count * LEAST;
    node.classList.toggle("abreast", abreast);
    const rows = Math.ceil(count / Math.max(1, Math.floor(block.lanesNode.clientWidth / (LEAST + 10))));
    block.lanesNode.style.gridTemplateColumns = abreast
      ? ""
      : `repeat(${Math.ceil(count / rows) || 1}, minmax(0, 1fr))`;
    for (const svg of abreast ? block.wires : []) {
      const width = svg.clientWidth;
      const left = node.getBoundingClientRect().left;
      const joins = svg === block.wires[1];
      svg.setAttribute("viewBox", `0 0 ${width} ${WIRE}`);
      svg.replaceChildren(
        ...[...block.lanes.values()].map((lane) => {
          const box = lane.node.getBoundingClientRect();
          const [x, middle] = [box.left - left + box.width / 2, width / 2];
          const path = document.createElementNS(SVG, "path");
          path.setAttribute("d", joins ? line(x, middle) : line(middle, x));
          return path;
        }),
      );
    }
  }
}
