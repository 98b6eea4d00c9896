// A generation as it is drawn: the prompt, the settings, and the events of a streamed chat completion.

const REFRESH = 500; // milliseconds between two readings of the speed

export class Live {
  constructor(page, drawing) {
    Object.assign(this, { page, drawing, about: {}, running: null, rate: null, kept: null });
    const { byId } = page;
    byId("live").addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    byId("prompt").addEventListener("keydown", (pressed) => {
      if (pressed.key !== "Enter" || pressed.shiftKey || pressed.isComposing) return;
      pressed.preventDefault();
      byId("live").requestSubmit();
    });
    byId("stop").addEventListener("click", () => this.stop());
    byId("settings").addEventListener("input", () => this.digest());
    byId("key").value = page.stored(sessionStorage, "polythink-key");
    byId("key").addEventListener("change", () => page.stored(sessionStorage, "polythink-key", byId("key").value));
  }

  // What the server says of its model: the choices, and what holds where nothing is chosen.
  describe(about) {
    const { byId } = this.page;
    this.about = about;
    const decoding = about.decoding ?? {};
    byId("mode").replaceChildren(new Option("the model's own", ""));
    byId("mode").append(
      ...(about.modes ?? []).map((mode) => Object.assign(new Option(mode.name, mode.name), { title: mode.about })),
    );
    byId("effort").append(...Object.keys(about.efforts ?? {}).map((name) => new Option(name, name)));
    byId("effort").closest("label").hidden = !Object.keys(about.efforts ?? {}).length;
    byId("paths").placeholder = decoding.paths ?? "";
    byId("paths").max = about.most_paths ?? 64;
    byId("temperature").placeholder = decoding.temperature ?? "";
    byId("key-field").hidden = !about.needs_key;
    if (about.needs_key && !byId("key").value) byId("settings").open = true;
    this.digest();
  }

  digest() {
    const value = (name) => this.page.byId(name).value;
    const own = (name) => value(name) || (this.about.decoding?.[name] ?? "");
    const parts = [
      value("effort") && !value("paths") ? `effort ${value("effort")}` : own("paths") && `${own("paths")} paths`,
      own("mode"),
      value("temperature") && `temperature ${value("temperature")}`,
      value("budget") && `${value("budget")} tokens of thinking`,
      value("seed") && `seed ${value("seed")}`,
    ];
    this.page.byId("digest").textContent = parts.filter(Boolean).join(" · ");
  }

  enter() {
    this.drawing.clear();
    this.changed();
    this.page.byId("empty").textContent =
      "The trace is drawn here as it is thought: the text forks into paths that are written at the same time, " +
      "and joins again.";
    this.page.byId("prompt").focus();
  }

  leave() {
    this.stop();
  }

  stop() {
    this.running?.abort();
  }

  changed() {
    this.page.showFigures(this.drawing, this.rate);
  }

  request() {
    const { byId } = this.page;
    const body = {
      model: this.about.model,
      messages: [{ role: "user", content: byId("prompt").value.trim() }],
      stream: true,
      return_events: true,
    };
    for (const name of ["paths", "temperature", "budget", "seed"]) {
      const field = byId(name);
      if (field.value !== "") body[field.name] = Number(field.value);
    }
    body.seed ??= Math.floor(Math.random() * 2 ** 31);
    byId("seed").placeholder = `random (${body.seed})`; // as it was drawn, to be asked for again
    for (const name of ["mode", "effort"]) if (byId(name).value) body[byId(name).name] = byId(name).value;
    return body;
  }

  async run() {
    const { byId, showError, announce } = this.page;
    const body = this.request();
    if (this.running || !body.messages[0].content) return;
    this.running = new AbortController();
    this.busy(true);
    showError();
    const mode = (this.about.modes ?? []).find((one) => one.name === (body.mode ?? this.about.decoding?.mode));
    const { tags = {}, reasons = {} } = this.about;
    this.drawing.clear({ tags, reasons, isolated: mode?.isolated, rereads: mode?.rereads }, body.messages[0].content);
    byId("empty").textContent = "";
    announce("Thinking");
    Object.assign(this, { rate: 0, begun: 0, read: 0 });
    try {
      const answer = await this.page.post("v1/chat/completions", JSON.stringify(body), this.running.signal);
      await this.draw(answer);
      this.measure(performance.now());
      const { drawn, steps, answer: found } = this.drawing;
      announce(`Finished: ${drawn} tokens in ${steps} steps${found ? `, the answer is ${found}` : ""}`);
    } catch (error) {
      this.drawing.finish(true);
      if (error.name === "AbortError") announce("Stopped");
      else this.fail(error);
    }
    this.running = null;
    this.busy(false);
    this.changed();
  }

  fail(error) {
    const { byId, showError } = this.page;
    showError(error.message);
    if (error.status !== 401) return;
    byId("key-field").hidden = false;
    byId("settings").open = true;
    byId("key").focus();
  }

  busy(yes) {
    const { byId } = this.page;
    byId("stop").hidden = !yes;
    byId("send").hidden = yes;
    byId("stage").setAttribute("aria-busy", yes);
  }

  // The lines of the stream: `data: {...}` each, an empty line between two, `data: [DONE]` at the end.
  async draw(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let [rest, ended] = ["", false];
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new Error("The connection was lost before the trace had ended.");
      });
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) ended = this.take(line.slice(5).trim()) || ended;
    }
    if (!ended) throw new Error("The connection was lost before the trace had ended.");
    if (!this.drawing.done) this.drawing.finish();
  }

  // One line; true for the last.
  take(data) {
    if (data === "[DONE]") return true;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    const events = [chunk.polythink, ...(chunk.choices ?? []).map((choice) => choice.delta?.polythink)]
      .flat()
      .filter(Boolean);
    for (const event of events) this.drawing.apply(event);
    const now = performance.now();
    this.begun ||= events.length ? now : 0;
    if (this.begun && now - Math.max(this.read, this.begun) > REFRESH) {
      this.measure(now);
    }
    return false;
  }

  measure(now) {
    this.read = now;
    this.rate = now > this.begun ? (1000 * this.drawing.tokens) / (now - this.begun) : 0;
  }
}
