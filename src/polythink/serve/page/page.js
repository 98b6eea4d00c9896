// The page: its two views (live and replay), the theme, and the figures beside the trace.

import { Live } from "./live.js";
import { Replay } from "./replay.js";
import { Drawing } from "./trace.js";

const byId = (name) => document.getElementById(name);
const THEMES = ["system", "light", "dark"];
const dark = matchMedia("(prefers-color-scheme: dark)");
let theme = "system";

// Storage may be forbidden; the page works without it.
function stored(storage, name, value) {
  try {
    if (value === undefined) return storage.getItem(name) ?? "";
    storage.setItem(name, value);
  } catch {
    /* nothing is kept */
  }
  return value ?? "";
}

function showTheme() {
  document.documentElement.dataset.theme = theme === "system" ? (dark.matches ? "dark" : "light") : theme;
  byId("theme").textContent = `Theme: ${theme}`;
}

function showFigures(drawing, rate = null) {
  const [steps, tokens] = [drawing.steps, drawing.drawn];
  byId("figures").hidden = byId("cost").hidden = tokens === 0;
  byId("steps").textContent = steps;
  byId("tokens").textContent = tokens;
  const unit = (byId("unit").textContent = drawing.format.unit ?? "tokens");
  byId("saved").textContent = `${(tokens / Math.max(steps, 1)).toFixed(1)}×`;
  byId("bar").style.transform = `scaleX(${tokens ? steps / tokens : 1})`;
  const saved = tokens - steps;
  byId("cost").textContent =
    saved > 0
      ? `One after another, these ${unit} would take ${tokens} steps; written side by side, they take ${steps}.`
      : "";
  byId("speed-of").hidden = rate === null;
  if (rate !== null) byId("rate").textContent = rate ? rate.toFixed(rate < 10 ? 1 : 0) : "–";
  byId("answer-of").hidden = !drawing.answer;
  byId("answer").textContent = drawing.answer ?? "";
}

function showError(sentence = "") {
  byId("error").hidden = !sentence;
  byId("error").textContent = sentence;
}

// Speaks one sentence at a time; tokens are not spoken.
let said = "";
function announce(sentence) {
  if (sentence !== said) byId("status").textContent = said = sentence;
}

// The answer of the server as JSON; an error of the server or of the network as one sentence.
async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server cannot be reached: it was stopped, or the connection is lost. Try again.");
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  const sentence = body.error?.message ?? `The server answered with status ${answer.status}.`;
  const wait = answer.headers.get("Retry-After");
  throw Object.assign(new Error(wait ? `${sentence} (Try again in ${wait} s.)` : sentence), { status: answer.status });
}

// A JSON text, with the key where one was given.
function post(path, body, signal) {
  const key = byId("key").value;
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  return ask(path, { method: "POST", headers, body, signal });
}

function showView(name) {
  const replaying = name === "replay";
  document.body.classList.toggle("replaying", replaying);
  byId("live").hidden = replaying;
  byId("replay").hidden = !replaying;
  byId("tab-live").setAttribute("aria-pressed", !replaying);
  byId("tab-replay").setAttribute("aria-pressed", replaying);
  showError();
}

async function start() {
  theme = stored(localStorage, "polythink-theme") || "system";
  dark.addEventListener("change", showTheme);
  byId("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    stored(localStorage, "polythink-theme", theme);
    showTheme();
  });
  showTheme();
  const page = { announce, ask, byId, post, showError, showFigures, stored };
  const drawing = new Drawing(byId("trace"), { announce, changed: () => page.current?.changed() });
  const [live, replay] = [new Live(page, drawing), new Replay(page, drawing)];
  const views = { live, replay };
  const turn = (name) => {
    if (page.current === views[name]) return;
    page.current?.leave();
    page.current = views[name];
    showView(name);
    page.current.enter();
  };
  byId("tab-live").addEventListener("click", () => turn("live"));
  byId("tab-replay").addEventListener("click", () => turn("replay"));
  document.addEventListener("keydown", (pressed) => pressed.key === "Escape" && page.current.stop());
  replay.takeDrops(() => turn("replay"));
  const about = await ask("page/about")
    .then((answer) => answer.json())
    .catch((error) => ({ failed: error.message }));
  byId("model").textContent = about.model ?? "";
  byId("tabs").hidden = about.live === false;
  live.describe(about);
  globalThis.polythink = { drawing }; // for tests, and for the curious
  turn(about.live === false ? "replay" : "live");
  if (about.failed) showError(about.failed);
  if (about.files) await replay.offer(about.files);
  document.documentElement.dataset.ready = "true";
}

start();
