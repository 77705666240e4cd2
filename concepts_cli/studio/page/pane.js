// A run: its picture, its mix, its images and its kept mixes.
import { Looking } from "./looking.js";
import { Mixer } from "./mixer.js";
import { ask, stream } from "./server.js";

const PAUSE = 120; // ms without a move before a picture is asked for
const LONGEST = 1024; // px, of an image that is sent

export class Pane {
  constructor(run, { tell, attempt, page }) {
    this.tell = tell;
    this.attempt = attempt;
    this.element = document.querySelector("#pane").content.firstElementChild.cloneNode(true);
    this.id = `${page}-${crypto.randomUUID()}`;
    this.ticket = 0;
    this.$ = (selector) => this.element.querySelector(selector);
    this.seed = this.$(".seed input");
    this.mixer = new Mixer(this.$(".mixer"), { change: () => this.#soon(), open: (name) => this.#edit(name) });
    this.looking = new Looking(this.$(".looking"), { attempt, start: (image) => this.#start(image) });
    this.#listen();
    this.#show(run);
    this.mixer.set([[run.concepts[0].name, run.scale]]);
  }

  #show(run) {
    this.run = run;
    this.$("h2").textContent = run.name;
    const images = run.total ? `${run.total} images, ` : "";
    this.$(".about").textContent = `${run.concepts.length} concepts, ${images}on ${run.model}`;
    this.element.setAttribute("aria-label", run.name);
    this.mixer.show(run);
    this.#showImages();
    this.#showKept(run.kept);
  }

  #showImages() {
    const { images, concepts, total } = this.run;
    this.$(".images .grid").replaceChildren(...images.map((image) => this.#tile(image, concepts)));
    this.$(".images .hint").hidden = !images.length;
    this.$(".more").hidden = images.length >= total;
    this.$(".more").textContent = `The first ${images.length} of ${total}.`;
  }

  #tile({ row, title, picture, weights }, concepts) {
    const tile = Object.assign(document.createElement("button"), { type: "button", className: "tile" });
    const parts = concepts.map((concept, k) => ({ ...concept, weight: weights[k] })).filter(({ weight }) => weight > 0);
    const strongest = [...parts].sort((a, b) => b.weight - a.weight).slice(0, 3);
    const said = strongest.map(({ name, weight }) => `${name} ${weight.toFixed(2)}`).join(", ");
    tile.title = `${title}: ${said}`;
    tile.setAttribute("aria-label", tile.title);
    if (picture) tile.append(Object.assign(new Image(), { src: picture, alt: "", draggable: false }));
    const bar = tile.appendChild(Object.assign(document.createElement("span"), { className: "blend" }));
    for (const { hue, weight } of parts) {
      const part = bar.appendChild(document.createElement("i"));
      part.style.setProperty("--hue", hue);
      part.style.flexGrow = weight;
    }
    tile.disabled = !picture;
    tile.draggable = Boolean(picture);
    tile.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/ucd", JSON.stringify({ image: row })));
    tile.addEventListener("click", () => this.#look({ image: row, shown: picture, title, weights }));
    return tile;
  }

  #showKept(kept) {
    this.$(".kept").hidden = !kept.length;
    const tiles = kept.map(({ title, terms, seed, picture }) => {
      const tile = Object.assign(document.createElement("button"), { type: "button", className: "tile", title });
      tile.setAttribute("aria-label", `Mix again: ${title}, seed ${seed}`);
      tile.append(Object.assign(new Image(), { src: picture, alt: "" }));
      tile.append(Object.assign(document.createElement("span"), { className: "caption", textContent: title }));
      tile.addEventListener("click", () => {
        this.seed.value = seed;
        this.mixer.set(terms);
      });
      return tile;
    });
    this.$(".kept .grid").replaceChildren(...tiles);
  }

  // ---- the picture

  #soon() {
    clearTimeout(this.timer);
    this.ticket += 1; // what is being denoised is outdated from now on
    this.#ready(false);
    this.timer = setTimeout(() => this.#mix(), PAUSE);
  }

  async #mix() {
    const ticket = this.ticket;
    const terms = this.mixer.terms;
    const figure = this.$("figure");
    const status = this.$(".status");
    this.done = null;
    if (!terms.length) {
      figure.classList.remove("busy");
      this.$(".picture").removeAttribute("src");
      this.$("progress").value = 0;
      status.textContent = "Nothing in the mix yet: move a slider, or drop an image here.";
      return;
    }
    figure.classList.add("busy");
    status.textContent = "Denoising …";
    const seed = Number(this.seed.value);
    await this.attempt(async () => {
      try {
        for await (const frame of stream("mix", this.run.run, terms, seed, this.id, ticket)) {
          if (ticket !== this.ticket) return;
          this.#frame(frame, terms, seed);
        }
      } finally {
        if (ticket === this.ticket) {
          figure.classList.remove("busy");
          if (!this.done) status.textContent = "";
        }
      }
    });
  }

  #frame({ step, steps, picture, command, notes }, terms, seed) {
    const words = terms.map(([name, weight]) => `${name} ${weight}`).join(", ");
    Object.assign(this.$(".picture"), { src: picture, alt: `Mix of ${words}` });
    Object.assign(this.$("progress"), { max: steps, value: step });
    this.$(".notes").textContent = notes.join(" ");
    this.$(".notes").hidden = !notes.length;
    if (step === steps) {
      this.done = { terms, seed, picture, command };
      this.$(".status").textContent = `Mix of ${words}`;
      this.#ready(true);
    }
  }

  #ready(ready) {
    for (const name of [".keep", ".take", ".look-into"]) this.$(name).disabled = !ready;
  }

  /** Start the mix from an image: a training image's row, or a data URL. */
  async #start(image) {
    this.tell("Finding what the image consists of …");
    const answer = await this.attempt(() => ask("start_from", this.run.run, image));
    this.tell("");
    if (answer) this.mixer.set(answer.terms);
  }

  #look(shown) {
    this.looking.open({ run: this.run.run, concepts: this.run.concepts, ...shown });
  }

  // ---- concepts

  #edit(name) {
    const dialog = this.$(".concept");
    const others = this.run.concepts.filter((concept) => concept.name !== name);
    this.edited = name;
    dialog.querySelector("h3").textContent = name;
    dialog.querySelector(".rename input").value = name;
    dialog.querySelector("select").replaceChildren(...others.map((other) => new Option(`${other.name} ${other.guess}`.trim(), other.name)));
    for (const form of [".merge", ".lose"]) dialog.querySelector(form).hidden = !others.length;
    dialog.showModal();
  }

  /** Change the concepts, and go on with the run that this makes; the mix keeps those that are still there. */
  async #change(call, ...values) {
    const terms = this.mixer.terms;
    this.$(".concept").close();
    const run = await this.attempt(() => ask(call, this.run.run, ...values));
    if (!run) return;
    const renamed = call === "rename" ? new Map([[values[0], run.concepts[this.run.concepts.findIndex((c) => c.name === values[0])]?.name]]) : new Map();
    const gone = new Set(this.run.concepts.map((c) => c.name).filter((name) => !run.concepts.some((c) => c.name === name)));
    const kept = terms.map(([name, weight]) => [renamed.get(name) ?? name, weight]).filter(([name]) => !gone.has(name));
    const isNew = run.run !== this.run.run;
    this.#show(run);
    this.mixer.set(kept);
    this.tell(isNew ? `This is now the new run ${run.path}.` : `${values[0]} is ${values[1]}.`);
  }

  // ---- the rest

  #listen() {
    this.seed.addEventListener("input", () => this.#soon());
    this.$(".shuffle").addEventListener("click", () => {
      this.seed.value = Math.floor(Math.random() * 100000);
      this.#soon();
    });
    this.$(".look-into").addEventListener("click", () =>
      this.#look({ image: this.done.picture, shown: this.done.picture, title: "This picture" }),
    );
    this.$(".keep").addEventListener("click", () => this.#keep());
    this.$(".take").addEventListener("click", () => this.#take());
    this.$(".copy").addEventListener("click", () => this.#copy());
    this.$(".word").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#export(event.target.querySelector("input").value, event.submitter.value);
    });
    this.#submit(".rename", (form) => this.#change("rename", this.edited, form.querySelector("input").value));
    this.#submit(".merge", (form) => this.#change("merge", [this.edited, form.querySelector("select").value]));
    this.#submit(".lose", () => this.#change("drop", this.edited));
    this.$(".images input").addEventListener("change", async (event) => {
      const [file] = event.target.files;
      event.target.value = "";
      const shown = file && (await this.attempt(() => sent(file)));
      if (shown) this.#look({ image: shown, shown, title: file.name });
    });
    this.$(".picture").addEventListener("dragstart", (event) => {
      if (this.done) event.dataTransfer.setData("text/ucd", JSON.stringify({ image: this.done.picture }));
    });
    for (const place of this.element.querySelectorAll(".drop")) this.#takeDrops(place);
  }

  #submit(form, work) {
    this.$(form).addEventListener("submit", (event) => {
      event.preventDefault();
      work(event.target);
    });
  }

  #takeDrops(place) {
    const show = (over) => this.element.classList.toggle("over", over);
    place.addEventListener("dragover", (event) => {
      event.preventDefault();
      show(true);
    });
    place.addEventListener("dragleave", (event) => !place.contains(event.relatedTarget) && show(false));
    place.addEventListener("drop", async (event) => {
      event.preventDefault();
      show(false);
      const ours = event.dataTransfer.getData("text/ucd");
      const [file] = event.dataTransfer.files;
      const image = ours ? JSON.parse(ours).image : file && (await this.attempt(() => sent(file)));
      if (image !== undefined) this.#start(image);
    });
  }

  async #keep() {
    const { terms, seed } = this.done;
    const answer = await this.attempt(() => ask("keep", this.run.run, terms, seed));
    if (!answer) return;
    this.#showKept(answer.kept);
    this.tell("Kept with the run, and on its report.");
  }

  #take() {
    this.$(".export code").textContent = this.done.command;
    this.$(".export").showModal();
  }

  async #copy() {
    const code = this.$(".export code");
    const button = this.$(".copy");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }

  async #export(name, form) {
    const answer = await this.attempt(() => ask("export", this.run.run, this.done.terms, name, form));
    if (!answer) return;
    const parts = answer.text ? [answer.text] : [Uint8Array.from(atob(answer.data), (letter) => letter.charCodeAt(0))];
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob(parts)), download: answer.file });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    this.tell(answer.note ? `Saved ${answer.file}; ${answer.note}` : `Saved ${answer.file}.`);
    this.$(".export").close();
  }
}

/** An image file as a data URL, no larger than needed. */
async function sent(file) {
  const image = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name} can't be read as an image.`);
  });
  const scale = Math.min(1, LONGEST / Math.max(image.width, image.height));
  const canvas = Object.assign(document.createElement("canvas"), {
    width: Math.max(1, Math.round(image.width * scale)),
    height: Math.max(1, Math.round(image.height * scale)),
  });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/png");
}
