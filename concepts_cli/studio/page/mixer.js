// The sliders of a mix: one per concept, and one per text that was added.

const STEP = 0.1;

export class Mixer {
  /** `change` is called with every move; `open` with the name of a concept that was clicked. */
  constructor(element, { change, open }) {
    this.element = element;
    this.change = change;
    this.open = open;
    this.rows = new Map(); // name -> {row, input, number, concept, weight}
    element.querySelector(".clear").addEventListener("click", () => this.set([]));
    element.querySelector(".add").addEventListener("submit", (event) => {
      event.preventDefault();
      const box = element.querySelector(".add input");
      const text = box.value.trim();
      if (!text) return;
      box.value = "";
      if (!this.rows.has(text)) this.#add({ name: text });
      this.#move(text, this.scale / 2);
      this.rows.get(text).input.focus();
    });
  }

  /** Show the concepts of a run, all at 0. */
  show({ concepts, limit, scale }) {
    this.limit = limit;
    this.scale = scale;
    this.rows.clear();
    this.element.querySelector(".sliders").replaceChildren();
    for (const concept of concepts) this.#add(concept, true);
  }

  get terms() {
    return [...this.rows].map(([name, row]) => [name, row.weight]).filter(([, weight]) => weight);
  }

  /** Set the mix to these terms, and all others to 0. */
  set(terms) {
    const wanted = new Map(terms);
    for (const [name, row] of this.rows) {
      if (!row.concept && !wanted.has(name)) this.#remove(name);
    }
    for (const name of wanted.keys()) if (!this.rows.has(name)) this.#add({ name });
    for (const name of this.rows.keys()) this.#paint(name, wanted.get(name) ?? 0);
    this.change();
  }

  #add({ name, guess, hue, face }, concept = false) {
    const row = document.createElement("div");
    row.className = concept ? "slider" : "slider text";
    if (concept) row.style.setProperty("--hue", hue);
    const label = document.createElement("button");
    label.type = "button";
    label.className = "name";
    if (face) label.append(Object.assign(new Image(), { src: face, alt: "" }));
    const words = label.appendChild(document.createElement("span"));
    words.append(Object.assign(document.createElement("b"), { textContent: name }));
    if (guess) words.append(" ", guess);
    label.title = concept ? `${name}: rename, merge or drop it` : `Remove “${name}”`;
    label.setAttribute("aria-label", label.title);
    label.addEventListener("click", () => (concept ? this.open(name) : this.#remove(name, true)));
    const input = document.createElement("input");
    const number = document.createElement("input");
    Object.assign(input, { type: "range", min: -this.limit, max: this.limit, step: STEP, value: 0 });
    Object.assign(number, { type: "number", min: -this.limit, max: this.limit, step: STEP, value: 0, inputMode: "decimal" });
    input.setAttribute("aria-label", guess ? `Weight of ${name}, ${guess}` : `Weight of ${name}`);
    number.setAttribute("aria-label", `Weight of ${name} as a number`);
    for (const each of [input, number]) each.addEventListener("input", () => this.#move(name, Number(each.value), each));
    input.addEventListener("dblclick", () => this.#move(name, 0));
    row.append(label, input, number);
    this.element.querySelector(".sliders").append(row);
    this.rows.set(name, { row, input, number, concept, weight: 0 });
    this.#paint(name, 0);
  }

  #remove(name, tell = false) {
    this.rows.get(name).row.remove();
    this.rows.delete(name);
    if (tell) this.change();
  }

  #move(name, weight, typed) {
    this.#paint(name, weight, typed);
    this.change();
  }

  /** Show a weight; the field that is being moved keeps what it shows. A slider shows a finer weight in its steps. */
  #paint(name, weight, moved) {
    const { row, input, number } = this.rows.get(name);
    const most = Math.ceil(Math.abs(weight));
    if (most > input.max) for (const each of [input, number]) Object.assign(each, { min: -most, max: most });
    this.rows.get(name).weight = Math.round(weight * 100) / 100;
    const shown = this.rows.get(name).weight;
    if (moved !== input) input.value = shown;
    if (moved !== number) number.value = shown;
    const place = 50 + (50 * shown) / Number(input.max);
    row.style.setProperty("--from", `${Math.min(50, place)}%`);
    row.style.setProperty("--to", `${Math.max(50, place)}%`);
    row.classList.toggle("zero", shown === 0);
    row.classList.toggle("negative", shown < 0);
  }
}
