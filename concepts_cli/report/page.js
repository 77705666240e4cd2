"use strict";

// The theme follows the system until the reader chooses.
const root = document.documentElement;
document.querySelector("#theme").addEventListener("click", () => {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  root.dataset.theme = (root.dataset.theme || system) === "dark" ? "light" : "dark";
});

// The weights: a click on a concept sorts by it, a second click reverses the order.
const table = document.querySelector("#weights");
if (table) {
  const body = table.tBodies[0];
  const heads = [...table.querySelectorAll("th[data-sort]")];
  const value = (row, key) => Number(key === "place" ? row.dataset.place : row.querySelector(`[data-k="${key}"]`).dataset.w);
  const sort = (compare) => body.append(...[...body.rows].sort(compare));
  const mark = (chosen, way) => heads.forEach((head) => head.setAttribute("aria-sort", head === chosen ? way : "none"));
  for (const head of heads) {
    head.querySelector("button").addEventListener("click", () => {
      const key = head.dataset.sort;
      const down = head.getAttribute("aria-sort") !== "descending" && key !== "place";
      const ascending = key === "place" && head.getAttribute("aria-sort") === "ascending";
      const sign = down || ascending ? -1 : 1;
      mark(head, sign < 0 ? "descending" : "ascending");
      sort((a, b) => sign * (value(a, key) - value(b, key)) || a.dataset.place - b.dataset.place);
    });
  }
  document.querySelector("#by-concept").addEventListener("click", () => {
    mark(null, "none");
    const strongest = (row) => Number(row.dataset.strongest);
    sort((a, b) => strongest(a) - strongest(b) || value(b, strongest(a)) - value(a, strongest(a)));
  });
}

// The map: a click on a concept leaves only its images, a second click all.
const spots = [...document.querySelectorAll(".map .spot")];
for (const spot of spots) {
  spot.addEventListener("click", () => {
    const chosen = spot.getAttribute("aria-pressed") === "true" ? null : spot.dataset.concept;
    for (const other of spots) other.setAttribute("aria-pressed", String(other.dataset.concept === chosen));
    for (const picture of spot.parentElement.querySelectorAll(".pic")) {
      picture.classList.toggle("faint", chosen !== null && picture.dataset.strongest !== chosen);
    }
  });
}

// Before and after: the slider goes through the previews.
const slider = document.querySelector("#step");
slider?.addEventListener("input", () => {
  const [steps, pictures] = [slider.dataset.steps.split("|"), slider.dataset.pictures.split("|")];
  const shown = document.querySelector(".previews .now .pic");
  shown.classList.remove(...pictures);
  shown.classList.add(pictures[slider.value]);
  shown.title = `samples at step ${steps[slider.value]}`;
  shown.setAttribute("aria-label", shown.title);
  document.querySelector(".previews output").textContent = steps[slider.value];
  slider.setAttribute("aria-valuetext", `step ${steps[slider.value]}`);
});

// Enlarge a picture.
const dialog = document.querySelector("dialog");
document.addEventListener("click", (event) => {
  const picture = event.target.closest("button.pic");
  if (!picture) return;
  const large = dialog.querySelector(".pic");
  large.className = picture.className;
  dialog.querySelector("p").textContent = picture.getAttribute("aria-label");
  dialog.showModal();
});
dialog.addEventListener("click", () => dialog.close());

// Copy a command.
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const text = button.previousElementSibling.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(button.previousElementSibling);
      button.textContent = "selected";
    }
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
}
