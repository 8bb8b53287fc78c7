// What uploads and downloads share: a box that says how they go, and a wire that may be cut.
const PAUSE = {first: 1000, longest: 10000, all: 300000};  // ms between tries, and for how long without a byte
const BUSY = new Set([408, 429, 502, 503, 504]);  // a proxy, or a server that starts: worth another try

class CutError extends Error {}

// Wait, until something is stopped at most.
const sleep = (ms, signal) => new Promise(done => {
  const timer = setTimeout(done, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); done(); }, {once: true});
});

function makeElement(kind, attributes, text) {
  const element = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text ?? "";
  return element;
}

// What a refusal says: a line of text of the app's, or a status alone where a proxy answers with a page.
function refusal(name, status, type, text) {
  if (BUSY.has(status)) return new CutError(`${name}: HTTP ${status}.`);
  return new Error((type?.startsWith("text/plain") && text.trim()) || `${name}: HTTP ${status}.`);
}

class TransferBox {
  constructor(label, stop) {
    this.box = makeElement("section", {class: "giving", "aria-label": label});
    this.words = makeElement("div", {role: "status"});
    this.bar = makeElement("progress", {"aria-label": label, max: 1});
    this.errors = makeElement("ul", {role: "alert"});
    this.button = makeElement("button", {type: "button"});
    this.button.onclick = () => {
      if (this.text) stop();
      else this.clear();
    };
    this.box.append(this.words, this.bar, this.errors, this.button);
    this.trying = new Set();  // what waits for the wire
    this.show("", 0);
    let boxes = document.querySelector(".transfers");
    if (!boxes) document.body.append(boxes = makeElement("div", {class: "transfers"}));
    boxes.append(this.box);
  }

  // A text while something is on its way, "" when nothing is; and how far it is, from 0 to 1.
  show(text, part) {
    this.text = text;
    this.box.hidden = !text && !this.errors.childElementCount;
    this.words.hidden = this.bar.hidden = !text;
    this.words.textContent = text + (this.trying.size ? " · the connection was lost, trying again" : "");
    this.bar.value = part || 0;
    this.button.textContent = text ? "Stop" : "Close";
  }

  fail(line) {
    if (this.errors.childElementCount < 20) this.errors.append(makeElement("li", {}, line));
    this.show(this.text, this.bar.value);
  }

  clear() {
    this.errors.replaceChildren();
    this.show(this.text, this.bar.value);
  }

  // Take a step until one gives something; where the wire was cut, take it again after a pause that grows.
  async persist(name, step, signal) {
    let pause = PAUSE.first, last = Date.now();
    while (!signal.aborted) {
      try {
        const result = await step();
        this.trying.delete(step);
        if (result) return result;
        [pause, last] = [PAUSE.first, Date.now()];
      } catch (error) {
        this.trying.delete(step);
        if (signal.aborted) break;
        if (!(error instanceof CutError) || Date.now() - last > PAUSE.all) throw error;
        this.trying.add(step);
        this.show(this.text, this.bar.value);
        await sleep(pause, signal);
        pause = Math.min(pause * 2, PAUSE.longest);
      }
    }
    this.trying.delete(step);
    throw new Error(`${name}: stopped.`);
  }
}
