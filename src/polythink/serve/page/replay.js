// The lines of a samples.jsonl: any of them drawn whole or played. The server turns a line into events.

import { make } from "./shapes.js";

const MOST_SHOWN = 300; // lines of the list at once
const MOST_BYTES = 512 << 20;

export class Replay {
  constructor(page, drawing) {
    Object.assign(this, {
      page,
      drawing,
      rows: [],
      found: [],
      at: -1,
      drawn: null,
      step: 0,
      timer: 0,
      shown: MOST_SHOWN,
    });
    const { byId } = page;
    byId("file").addEventListener("change", () => byId("file").files[0] && this.open(byId("file").files[0]));
    byId("from").addEventListener("change", () => this.load(byId("from").value));
    byId("search").addEventListener("input", () => this.filter());
    byId("search").addEventListener("keydown", (pressed) => this.keyed(pressed));
    byId("rows").addEventListener("keydown", (pressed) => this.keyed(pressed));
    byId("rows").addEventListener("click", (event) => this.clicked(event));
    byId("play").addEventListener("click", () => (this.timer ? this.stop() : this.play()));
    byId("whole").addEventListener("click", () => this.whole());
    byId("at").addEventListener("input", () => this.goTo(Number(byId("at").value)));
    byId("speed").addEventListener("change", () => this.timer && this.play());
  }

  takeDrops(turn) {
    const over = (yes) => document.body.classList.toggle("dragged", yes);
    addEventListener("dragover", (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      over(true);
    });
    addEventListener("dragleave", (event) => event.relatedTarget || over(false));
    addEventListener("drop", (event) => {
      over(false);
      const file = event.dataTransfer.files[0];
      if (!file) return;
      event.preventDefault();
      turn();
      this.open(file);
    });
  }

  // Files that the server offers: `polythink show`.
  async offer(files) {
    const { byId } = this.page;
    byId("from").replaceChildren(...files.map((name, i) => new Option(name, i)));
    byId("from-label").hidden = files.length < 2;
    byId("from").value = files.length - 1; // the last stage
    await this.load(files.length - 1, files.at(-1));
  }

  async load(number, name) {
    await this.guarded(async () => {
      const answer = await this.page.ask(`files/${number}`);
      this.read(await answer.text(), name);
    });
  }

  async open(file) {
    await this.guarded(async () => {
      if (file.size > MOST_BYTES)
        throw new Error(
          `${file.name} has ${file.size >> 20} MiB; the page opens at most ${MOST_BYTES >> 20}: cut it (head -n 1000)`,
        );
      this.read(await file.text(), file.name);
      this.page.byId("rows").focus({ preventScroll: true });
    });
  }

  async guarded(work) {
    this.page.showError();
    try {
      await work();
    } catch (error) {
      this.page.showError(error.message);
    }
  }

  read(text, name = "the file") {
    const rows = [];
    text.split("\n").forEach((line, i) => {
      if (!line.trim()) return;
      try {
        rows.push(described(JSON.parse(line), line, i + 1));
      } catch {
        rows.push({ number: i + 1, line: "", asked: "not a line of JSON", facts: "torn or broken", words: "broken" });
      }
    });
    if (!rows.some((row) => row.line))
      throw new Error(`${name} holds no line of JSON; a samples.jsonl has one object a line.`);
    this.rows = rows;
    this.page.byId("picker").hidden = false;
    this.page.byId("replay").classList.add("loaded");
    this.page.byId("search").value = "";
    this.filter();
  }

  // ---- the list

  filter() {
    const words = this.page.byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    this.found = this.rows.filter((row) => words.every((word) => row.words.includes(word)));
    this.shown = MOST_SHOWN;
    this.list();
    this.select(this.found.length ? 0 : -1);
  }

  list() {
    const { byId } = this.page;
    const shown = this.found.slice(0, this.shown);
    byId("rows").replaceChildren(
      ...shown.map((row, i) => {
        const item = make("li");
        Object.assign(item, { id: `row-${i}` });
        item.setAttribute("role", "option");
        item.dataset.at = i;
        item.append(
          make("span", "asked", row.asked),
          make("span", `verdict ${row.verdict ?? ""}`, MARKS[row.verdict] ?? row.verdict ?? ""),
          make("span", "facts", row.facts),
        );
        return item;
      }),
    );
    const more = this.found.length > shown.length ? `; the first ${shown.length} are listed` : "";
    byId("count").textContent = `${this.found.length} of ${this.rows.length} lines${more}`;
  }

  clicked(event) {
    const item = event.target.closest("li");
    if (item) this.select(Number(item.dataset.at));
  }

  keyed(pressed) {
    const last = this.found.length - 1;
    const to = {
      ArrowDown: this.at + 1,
      ArrowUp: this.at - 1,
      PageDown: this.at + 10,
      PageUp: this.at - 10,
      Home: 0,
      End: last,
    }[pressed.key];
    const typing = pressed.currentTarget.id === "search";
    if (!typing && pressed.key === " ") return (pressed.preventDefault(), this.timer ? this.stop() : this.play());
    if (to === undefined || (typing && !pressed.key.startsWith("Arrow"))) return;
    pressed.preventDefault();
    this.select(Math.min(Math.max(to, 0), last));
  }

  async select(at) {
    const { byId } = this.page;
    if (at >= this.shown) {
      this.shown = at + MOST_SHOWN;
      this.list();
    }
    this.at = at;
    for (const item of byId("rows").querySelectorAll("[aria-selected=true]")) item.setAttribute("aria-selected", false);
    const item = byId(`row-${at}`);
    byId("rows").setAttribute("aria-activedescendant", item ? item.id : "");
    item?.setAttribute("aria-selected", true);
    item?.scrollIntoView({ block: "nearest" });
    const row = this.found[at];
    this.stop();
    if (!row?.line) return this.clear();
    await this.guarded(async () => {
      const answer = await this.page.post("replay", row.line);
      const drawn = await answer.json();
      if (this.found[this.at] !== row) return; // another line was chosen meanwhile
      Object.assign(this, { drawn, step: Infinity }); // drawn anew
      byId("player").hidden = false;
      byId("at").max = drawn.steps.length;
      this.whole();
    });
  }

  // ---- drawing

  clear() {
    this.drawn = null;
    this.drawing.clear();
    this.page.byId("player").hidden = true;
    this.changed();
  }

  enter() {
    this.page.byId("empty").textContent = this.rows.length
      ? ""
      : "Open the samples.jsonl of a run: every line is a trace that can be drawn, whole or step by step.";
    if (this.rows.length) this.select(this.at);
    else this.clear();
  }

  leave() {
    this.stop();
    this.page.byId("player").hidden = true;
    this.page.byId("verdict-of").hidden = this.page.byId("note").hidden = true;
  }

  changed() {
    const { byId, showFigures } = this.page;
    showFigures(this.drawing);
    const [verdict, note] = [this.drawn?.verdict ?? "", this.drawn?.note ?? ""];
    byId("note").hidden = !note;
    byId("note").textContent = note;
    byId("verdict-of").hidden = !verdict;
    byId("verdict").textContent = MARKS[verdict] ?? verdict;
    byId("verdict").className = verdict;
  }

  goTo(step) {
    if (!this.drawn) return;
    if (step < this.step || step === 0 || this.drawing.done) {
      this.drawing.clear(this.drawn.format, this.drawn.question);
      this.drawing.totals = this.drawn.totals;
      this.step = 0;
    }
    this.page.byId("empty").textContent = "";
    for (; this.step < step; this.step += 1) for (const event of this.drawn.steps[this.step]) this.drawing.apply(event);
    if (step >= this.drawn.steps.length) this.drawing.finish();
    else this.drawing.flush();
    this.page.byId("at").value = step;
  }

  whole() {
    this.stop();
    this.goTo(this.drawn?.steps.length ?? 0);
  }

  play() {
    clearInterval(this.timer);
    if (!this.drawn) return;
    if (this.step >= this.drawn.steps.length) this.goTo(0);
    this.page.byId("play").textContent = "Pause";
    this.timer = setInterval(
      () => {
        this.goTo(this.step + 1);
        if (this.step >= this.drawn.steps.length) this.stop();
      },
      1000 / Number(this.page.byId("speed").value),
    );
  }

  stop() {
    clearInterval(this.timer);
    this.timer = 0;
    this.page.byId("play").textContent = "Play";
  }
}

const MARKS = { right: "✓ right", wrong: "✗ wrong", unparsed: "no answer", timeout: "timed out" };

// What the list shows of a row, and the words by which it is found.
function described(row, line, number) {
  const asked = String(row.question ?? row.problem ?? row.source ?? row.prompt ?? row.text ?? `line ${number}`)
    .replace(/\s+/g, " ")
    .slice(0, 200);
  const facts = [`line ${number}`];
  if (row.step !== undefined) facts.push(`step ${row.step}`);
  if (row.paths) facts.push(`${row.paths} paths`);
  if (typeof row.reward === "number") facts.push(`reward ${Number(row.reward.toFixed(2))}`);
  if (row.tokens) facts.push(`${row.tokens} tokens`);
  if (row.truncated) facts.push("truncated");
  const verdict = typeof row.verdict === "string" ? row.verdict : undefined;
  return {
    number,
    line,
    asked,
    verdict,
    facts: facts.join(" · "),
    words: `${asked} ${verdict} ${facts.join(" ")} ${row.text ?? ""}`.toLowerCase(),
  };
}
