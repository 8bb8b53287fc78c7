// The terminal in the browser: NiceGUI's xterm.js, its size, what is shown in it, typed, found, copied and opened.
import { Terminal, FitAddon, WebLinksAddon } from "nicegui-xterm";
import { loadResource } from "../../static/utils/resources.js";

const PIECE = 65536; // characters of a paste in one message; the server takes 1 MB at most, escapes included
const SIZES = [8, 32]; // pixels
const CONTROLS = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]/g; // all but tab and line ends
// What xterm.js does as often as a number says, with lines and with columns. More often than the screen has lines or
// columns changes nothing more, and 50 kB of it freeze the browser for minutes.
const OF_LINES = [..."LMST"].map((final) => ({ final }));
const OF_COLUMNS = [..."@IPXZb"].map((final) => ({ final }));
OF_COLUMNS.push(...[" @", " A", "'}", "'~"].map(([intermediates, final]) => ({ intermediates, final })));
const LONGEST_LINK = 2083; // characters, as in VTE: xterm.js keeps each link as long as its line is there
// What a phone's keyboard lacks; Ctrl is for the key after it.
const KEYS = {
  Esc: { text: "\x1b" },
  Tab: { text: "\t" },
  Ctrl: {},
  Left: { sign: "←", arrow: "D" },
  Up: { sign: "↑", arrow: "A" },
  Down: { sign: "↓", arrow: "B" },
  Right: { sign: "→", arrow: "C" },
};

export default {
  template: `
    <div>
      <div ref="place" class="place"></div>
      <div class="keys" role="toolbar" aria-label="Keys">
        <button v-for="(_, key) in keys" type="button" :aria-label="key" :aria-pressed="key === 'Ctrl' ? ctrl : null"
                @mousedown.prevent @click="press(key)">{{ keys[key].sign ?? key }}</button>
      </div>
      <form v-show="finding" class="bar" role="search" @submit.prevent="find(-1)" @keydown.esc="close">
        <input ref="sought" v-model="sought" aria-label="Find in the terminal" placeholder="Find" spellcheck="false"
               @input="find(0)" @keydown.shift.enter.prevent="find(1)">
        <span role="status">{{ found }}</span>
        <button type="button" aria-label="Previous match" @click="find(-1)">↑</button>
        <button type="button" aria-label="Next match" @click="find(1)">↓</button>
        <button type="button" aria-label="Close" @click="close">×</button>
      </form>
      <div v-if="wanted !== null" class="bar" role="alert">
        A program in this terminal wants to copy text to your clipboard.
        <button type="button" @click="consent(true)">Allow</button>
        <button type="button" @click="consent(false)">No</button>
      </div>
    </div>`,
  props: { options: Object, resourcePath: String },
  emits: ["data", "size"],
  data: () => ({ keys: KEYS, ctrl: false, finding: false, sought: "", found: "", wanted: null }),

  mounted() {
    const open = (_, uri) => /^https?:/i.test(uri) && window.open(uri, "_blank", "noopener");
    this.terminal = new Terminal({ ...this.options, linkHandler: { activate: open } });
    this.terminal.options.fontSize = Number(localStorage.getItem("fontSize")) || this.options.fontSize;
    this.terminal.loadAddon((this.fitter = new FitAddon()));
    this.terminal.loadAddon(new WebLinksAddon(open));
    this.terminal.parser.registerOscHandler(52, (text) => this.copied(text));
    this.terminal.parser.registerOscHandler(8, (text) => text.length > LONGEST_LINK);
    for (const id of OF_LINES) this.terminal.parser.registerCsiHandler(id, ([times]) => times > this.terminal.rows);
    for (const id of OF_COLUMNS) this.terminal.parser.registerCsiHandler(id, ([times]) => times > this.terminal.cols);
    this.terminal.attachCustomKeyEventHandler((event) => this.passes(event));
    this.terminal.onData((text) => this.type(text));
    this.unsent = [];
    this.$nextTick()
      .then(() => loadResource(`${window.path_prefix}${this.resourcePath}/xterm.css`))
      .then(() => {
        this.terminal.open(this.$refs.place);
        this.$refs.place.addEventListener("paste", (event) => this.paste(event), true);
        new ResizeObserver(() => this.fit()).observe(this.$refs.place);
      });
  },

  methods: {
    // --- Size

    fit() {
      // xterm.js takes the font's height as the browser rounds it, which may cut the lowest row of pixels: an underscore.
      const { fontSize, fontFamily } = this.terminal.options;
      const context = document.createElement("canvas").getContext("2d");
      context.font = `${fontSize}px ${fontFamily}`;
      const font = context.measureText("W");
      const height = Math.ceil((font.fontBoundingBoxAscent + font.fontBoundingBoxDescent) * devicePixelRatio);
      this.terminal.options.lineHeight = (height + 1.5) / height; // of which xterm.js takes whole pixels: one more
      this.fitter.fit();
      const size = [this.terminal.rows, this.terminal.cols];
      if (String(size) !== this.size) this.$emit("size", ...size);
      this.size = String(size);
    },

    // Makes the font larger or smaller by some pixels, and remembers it.
    zoom(step) {
      const size = Math.min(Math.max(this.terminal.options.fontSize + step, SIZES[0]), SIZES[1]);
      this.terminal.options.fontSize = size;
      localStorage.setItem("fontSize", size);
      this.fit();
      this.focus();
    },

    // --- Output

    // Shows text; done when xterm.js has parsed it: nothing piles up in the browser either.
    show(text, replayed) {
      // When its turn comes; and only where it changes, since xterm.js shows at once just the first write after a key.
      if (replayed !== this.replaying) this.terminal.write("", () => (this.replayed = replayed));
      this.replaying = replayed;
      return new Promise((done) => this.terminal.write(text, done));
    },

    focus() {
      this.terminal.focus();
    },

    // --- Input

    // Another terminal is shown from now on: what is still unsent was not meant for it.
    start(serial) {
      Object.assign(this, { serial, unsent: [], waiting: false });
      this.focus();
    },

    press(key) {
      const { text, arrow } = KEYS[key];
      this.ctrl = key === "Ctrl" && !this.ctrl;
      if (arrow) this.type(`\x1b${this.terminal.modes.applicationCursorKeysMode ? "O" : "["}${arrow}`);
      else if (text) this.type(text);
      this.focus();
    },

    // As other terminals paste: an escape sequence in it could end the brackets that keep a shell from running it.
    paste(event) {
      event.preventDefault();
      event.stopPropagation();
      this.terminal.paste(event.clipboardData.getData("text/plain").replace(CONTROLS, " "));
    },

    // A long paste goes in pieces, each when a program has taken the one before. Ctrl-C drops what is left of it.
    type(text) {
      if (this.ctrl && /^[@-~]$/.test(text)) {
        text = String.fromCharCode(text.charCodeAt(0) & 31);
        this.ctrl = false;
      }
      if (text === "\x03") {
        Object.assign(this, { unsent: [], waiting: false });
        this.$emit("data", text, 0, false);
        return;
      }
      text = text.replace(/\p{Surrogate}/gu, "\ufffd"); // half a character: the server would refuse all of it
      for (let start = 0, end; start < text.length; start = end) {
        end = start + PIECE;
        if (/[\uD800-\uDBFF]/.test(text[end - 1] ?? "")) end++; // not in the middle of one
        this.unsent.push(text.slice(start, end));
      }
      if (!this.waiting) this.send(0);
    },

    // The program has taken what was sent.
    taken(serial) {
      if (serial === this.serial) this.send(serial);
    },

    // What goes on with something is for the terminal that got its beginning.
    send(serial) {
      const piece = this.unsent.shift();
      this.waiting = this.unsent.length > 0;
      if (piece !== undefined) this.$emit("data", piece, serial, this.waiting);
    },

    // Whether xterm.js is to handle a key; Ctrl+Shift+V and Cmd+C and V are the browser's own.
    passes(event) {
      const key = event.key?.toUpperCase(); // a browser that fills in a form names none
      if (!(event.shiftKey && (event.ctrlKey || event.metaKey)) || !"CFV".includes(key)) return true;
      if (key === "V") return false;
      event.preventDefault();
      if (event.type === "keydown" && key === "F") this.search();
      if (event.type === "keydown" && key === "C" && this.terminal.hasSelection()) this.copy(this.terminal.getSelection());
      return false;
    },

    // --- Clipboard

    copy(text) {
      navigator.clipboard.writeText(text).catch(() => (this.wanted = text)); // a click is what it wants
    },

    // OSC 52: a program copies, which takes one click of consent; nothing tells a program what is in the clipboard.
    copied(data) {
      const base64 = data.slice(data.indexOf(";") + 1);
      let text = "";
      try {
        text = new TextDecoder().decode(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)));
      } catch {} // a question, or rubbish
      if (!text || this.replayed || this.consented === false) return true;
      if (this.consented) this.copy(text);
      else this.wanted = text;
      return true;
    },

    consent(given) {
      const text = this.wanted;
      this.wanted = null;
      this.consented = given;
      if (given) this.copy(text);
      this.focus();
    },

    // --- Find

    search() {
      this.finding = true;
      this.$nextTick(() => this.$refs.sought.select());
    },

    close() {
      this.finding = false;
      this.focus();
    },

    // Selects the match that is some steps further down; with 0, the lowest.
    find(step) {
      const matches = this.matches();
      this.at = step ? (this.at + step + matches.length) % matches.length : matches.length - 1;
      this.found = this.sought && (matches.length ? `${this.at + 1} of ${matches.length}` : "not found");
      if (matches.length) this.select(matches[this.at]);
      else this.terminal.clearSelection();
    },

    matches() {
      const buffer = this.terminal.buffer.active, found = [];
      const pattern = new RegExp(this.sought.replace(/[$()*+.?[\\\]^{|}/]/g, "\\$&"), "giu");
      for (let row = 0, next = 0; this.sought && row < buffer.length; row = next) {
        let text = "";
        do text += buffer.getLine(next++).translateToString();
        while (buffer.getLine(next)?.isWrapped);
        for (const { index, 0: match } of text.matchAll(pattern)) found.push([row, index, index + match.length]);
      }
      return found;
    },

    // Selects what stands at these places in the text of a line. A character may take two cells, or several places.
    select([row, start, end]) {
      const { cols, rows, buffer } = this.terminal;
      let cell = 0, from = 0;
      for (let place = 0; place < end; cell++) {
        if (place <= start) from = cell;
        const shown = buffer.active.getLine(row + Math.floor(cell / cols)).getCell(cell % cols);
        place += shown.getWidth() && (shown.getChars().length || 1);
      }
      const y = row + Math.floor(from / cols);
      this.terminal.select(from % cols, y, cell - from);
      this.terminal.scrollToLine(y - Math.floor(rows / 2));
    },
  },
};
