// The page: its runs side by side, its theme, and what it tells the user.
import { Pane } from "./pane.js";
import { ask } from "./server.js";

const root = document.documentElement;
const problem = document.querySelector("#problem");

function tell(text) {
  document.querySelector(".top .state").textContent = text;
}

function complain(error) {
  problem.querySelector("p").textContent = error.hint ? `${error.message} — ${error.hint}` : error.message;
  problem.hidden = false;
  clearTimeout(complain.timer);
  complain.timer = setTimeout(() => (problem.hidden = true), 12000);
}

/** Do something that may fail, and say so if it does. */
async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    complain(error);
    return undefined;
  }
}

problem.querySelector("button").addEventListener("click", () => (problem.hidden = true));

// The theme follows the system until the user chooses.
try {
  root.dataset.theme = localStorage.getItem("ucd-theme") || "";
} catch {
  // without storage a choice lasts until the page is closed
}
document.querySelector("#theme").addEventListener("click", () => {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("ucd-theme", root.dataset.theme);
  } catch {
    // as above
  }
});

const panes = document.querySelector("#panes");
const count = Number(document.body.dataset.runs);
const context = { tell, attempt, page: crypto.randomUUID() };
const runs = await attempt(() => Promise.all(Array.from({ length: count }, (_, place) => ask("describe", place))));
if (runs) {
  panes.replaceChildren();
  panes.dataset.count = count;
  for (const run of runs) panes.append(new Pane(run, context).element);
  document.title = `${runs.map((run) => run.name).join(", ")} — ucd studio`;
}
