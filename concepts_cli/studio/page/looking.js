// An image in a dialog: what it consists of, and where each concept is in it.
import { ask } from "./server.js";

export class Looking {
  /** `start` is called with the image to start the mix from. */
  constructor(dialog, { attempt, start }) {
    this.dialog = dialog;
    this.attempt = attempt;
    this.picture = dialog.querySelector("img");
    this.found = dialog.querySelector(".found");
    dialog.querySelector(".start").addEventListener("click", () => {
      dialog.close();
      start(this.image);
    });
  }

  /**
   * Open an image of `run`: `image` is a training image's row or a data URL, `shown` what to show, `weights` what it
   * consists of, by concept, if that is known.
   */
  open({ run, concepts, image, shown, title, weights }) {
    this.run = run;
    this.image = image;
    this.shown = shown;
    this.picture.src = shown;
    this.picture.alt = title;
    this.found.textContent = "";
    this.dialog.classList.remove("mapped");
    this.dialog.querySelector("h3").textContent = title;
    const most = Math.max(...concepts.map((_, k) => Math.abs(weights?.[k] ?? 0)), 1e-6);
    const parts = concepts.map((concept, k) => this.#part(concept, weights?.[k], most));
    this.dialog.querySelector(".parts").replaceChildren(...parts);
    this.dialog.showModal();
  }

  #part({ name, guess, hue }, weight, most) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.style.setProperty("--hue", hue);
    button.style.setProperty("--share", `${(100 * Math.abs(weight ?? 0)) / most}%`);
    const words = button.appendChild(document.createElement("span"));
    words.append(Object.assign(document.createElement("b"), { textContent: name }));
    if (guess) words.append(" ", guess);
    if (weight !== undefined) {
      button.append(Object.assign(document.createElement("i"), { className: weight < 0 ? "bar negative" : "bar" }));
      button.append(Object.assign(document.createElement("span"), { className: "weight", textContent: weight.toFixed(2) }));
    }
    button.addEventListener("click", () => this.#map(button, name));
    return button;
  }

  /** Show where a concept is; a second click shows the image again. */
  async #map(button, name) {
    const again = button.getAttribute("aria-pressed") === "true";
    for (const each of this.dialog.querySelectorAll(".parts button")) each.setAttribute("aria-pressed", "false");
    if (again) {
      this.picture.src = this.shown;
      this.found.textContent = "";
      this.dialog.classList.remove("mapped");
      return;
    }
    button.setAttribute("aria-pressed", "true");
    this.found.textContent = `Looking for ${name} …`;
    const image = this.image;
    this.dialog.classList.add("busy");
    const map = await this.attempt(() => ask("heat", this.run, name, image));
    this.dialog.classList.remove("busy");
    if (image !== this.image || button.getAttribute("aria-pressed") !== "true") return;
    if (!map) {
      button.setAttribute("aria-pressed", "false");
      this.found.textContent = "";
      return;
    }
    this.picture.src = map.picture;
    this.dialog.classList.add("mapped");
    const covered = Math.round(100 * map.coverage);
    this.found.textContent = map.coverage ? `${name} covers ${covered || "less than 1"}% of the image.` : `${name} is nowhere strong in it.`;
  }
}
