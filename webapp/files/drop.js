// Files that are dropped, pasted or chosen go to /files/ in pieces, three files at a time; their paths are then pasted
// into the terminal. A piece is sent again where the wire was cut.
const giveFiles = (() => {
  const LIMIT = 500e6, AT_ONCE = 3;
  // Bytes of a piece: three of them at once take 96 s at 1 Mbit/s, and a request may take 120 s (Databricks Apps).
  const MOST = 4e6, LEAST = 250e3;
  let box, control = new AbortController(), sending = new Set(), waiting = [];
  let files = 0, done = 0, bytes = 0, sent = 0, batches = 0;

  class Upload {
    // A path that ends in a slash is a folder, without a file.
    constructor(path, file) {
      this.path = path;
      this.file = file ?? new Blob();
      this.piece = MOST;
      this.at = this.loaded = 0;
      const query = `upload=${crypto.randomUUID()}&size=${this.file.size}`;
      this.url = `/files/${path.split("/").map(encodeURIComponent).join("/")}?${query}`;
    }

    // Send the next piece. Gives the answer to the last one.
    async step() {
      const body = this.file.slice(this.at, this.at + this.piece);
      try {
        const answer = await this.put(body);
        this.at = this.loaded = answer.have;
        this.piece = Math.min(this.piece + LEAST, MOST);
        return answer.path ? answer : null;
      } catch (error) {
        this.loaded = this.at;
        this.piece = Math.max(this.piece / 2, LEAST);
        await body.slice(0, 1).arrayBuffer().catch(() => { throw new Error(`${this.path}: it cannot be read.`); });
        throw error;
      }
    }

    put(body) {
      return new Promise((ok, no) => {
        const request = new XMLHttpRequest(), stop = () => request.abort();
        const cut = () => no(new CutError(`${this.path}: the connection was lost.`));
        request.open("PUT", `${this.url}&at=${this.at}`);
        request.timeout = 120e3;
        request.upload.onprogress = event => { this.loaded = this.at + event.loaded; show(); };
        request.onload = () => {
          try {
            if (request.status === 200) return ok(JSON.parse(request.responseText));
          } catch { /* a proxy's page */ }
          no(refusal(this.path, request.status, request.getResponseHeader("content-type"), request.responseText));
        };
        request.onerror = request.ontimeout = request.onabort = cut;
        request.onloadend = () => control.signal.removeEventListener("abort", stop);
        control.signal.addEventListener("abort", stop);
        request.send(body);
      });
    }

    async send() {
      try {
        return await box.persist(this.path, () => this.step(), control.signal);
      } catch (error) {
        fetch(this.url, {method: "DELETE", keepalive: true}).catch(() => {});
        throw error;
      }
    }
  }

  function show() {
    const now = [...sending].reduce((sum, upload) => sum + upload.loaded, sent);
    const text = `${done} of ${files} ${files === 1 ? "file" : "files"} sent to ~/projects/uploads`;
    box.show(batches ? text : "", bytes ? now / bytes : 0);
  }

  function next() {
    while (waiting.length && sending.size < AT_ONCE) {
      const {upload, ok, no} = waiting.shift();
      sending.add(upload);
      upload.send().then(ok, no).finally(() => { sending.delete(upload); next(); });
    }
  }

  const queue = (path, file) => new Promise((ok, no) => {
    if (control.signal.aborted) return no(new Error(`${path}: stopped.`));
    if (file?.size > LIMIT) return no(new Error(`${path}: it has more than ${LIMIT / 1e6} MB.`));
    waiting.push({upload: new Upload(path, file), ok, no});
    next();
  });

  function stop() {
    control.abort();
    waiting.splice(0).forEach(({upload, no}) => no(new Error(`${upload.path}: stopped.`)));
  }

  async function one(path, file) {
    files += 1;
    bytes += file.size;
    show();
    try {
      return await queue(path, file);
    } finally {
      done += 1;
      sent += file.size;
      show();
    }
  }

  const fail = error => box.fail(error.message);

  // A folder's entries come in pieces; it is done when all that is in it is.
  async function folder(entry, path) {
    const reader = entry.createReader(), jobs = [];
    for (let some = [0]; some.length && !control.signal.aborted; ) {
      some = await new Promise((ok, no) => reader.readEntries(ok, no));
      jobs.push(...some.map(inside => within(inside, `${path}/${inside.name}`)));
    }
    if (!jobs.length && path.includes("/")) await queue(path + "/");
    await Promise.all(jobs);
  }

  const within = async (entry, path) => {
    try {
      if (entry.isDirectory) await folder(entry, path);
      else await one(path, await new Promise((ok, no) => entry.file(ok, no)));
    } catch (error) {
      fail(error);
    }
  };

  // Each item is a File, or the entry of a folder. Returns what is to be typed for it.
  async function top(item) {
    try {
      if (item instanceof File) return (await one(item.name, item)).typed;
      const made = await queue(item.name + "/");
      await folder(item, made.path);
      return made.typed;
    } catch (error) {
      fail(error);
    }
  }

  async function give(items) {
    box ??= new TransferBox("Uploads", stop);
    if (!batches++) {
      files = done = bytes = sent = 0;
      control = new AbortController();
      box.clear();
    }
    show();
    const typed = (await Promise.all(items.map(top))).filter(Boolean);
    batches -= 1;
    show();
    if (!typed.length) return;
    // As a paste, so that a program that asked for bracketed paste gets one.
    const page = Object.values(mounted_app?.$refs ?? {}).find(element => element?.terminal);
    page?.terminal.paste(typed.join(" ") + " ");
    if (!document.querySelector("[role=dialog]")) page?.terminal.focus();
    emitEvent("given");
  }

  const carries = event => event.dataTransfer?.types.includes("Files");
  const capture = (kind, handler) => addEventListener(kind, handler, true);
  const mark = on => document.body.classList.toggle("dropping", on);
  capture("dragover", event => { if (carries(event)) { event.preventDefault(); mark(true); } });
  capture("dragleave", event => { if (!event.relatedTarget) mark(false); });
  capture("drop", event => {
    mark(false);
    if (!carries(event)) return;
    event.preventDefault();
    event.stopPropagation();
    const items = [...event.dataTransfer.items].filter(item => item.kind === "file");
    give(items.map(item => {
      const entry = item.webkitGetAsEntry?.();
      return entry?.isDirectory ? entry : item.getAsFile();
    }).filter(Boolean));
  });
  const isImage = thing => thing.type.startsWith("image/");
  function giveImages(images) {
    const time = new Date(Date.now() - new Date().getTimezoneOffset() * 6e4).toISOString().slice(0, 19).replace(/\D/g, "");
    give(images.map(image => new File([image], `pasted-${time}.${image.type.slice(6).replace(/\W.*/, "")}`)));
  }
  async function readImages() {
    const items = await navigator.clipboard.read();
    const kinds = items.map(item => [item, item.types.find(type => isImage({type}))]).filter(([, type]) => type);
    const images = await Promise.all(kinds.map(([item, type]) => item.getType(type)));
    if (images.length) giveImages(images);
  }
  capture("paste", event => {
    const {types, files} = event.clipboardData, images = [...files].filter(isImage);
    // Ctrl+Shift+V pastes text alone, so it comes with nothing where a picture is copied: the browser must be asked for that.
    const asked = !types.length && navigator.clipboard?.read;
    // What comes from a text program has text beside its picture.
    if (types.includes("text/plain") || !(images.length || asked)) return;
    event.preventDefault();
    event.stopPropagation();
    if (images.length) giveImages(images);
    else readImages().catch(() => {});  // no consent
  });
  addEventListener("beforeunload", event => { if (batches) event.preventDefault(); });

  return () => {
    const input = makeElement("input", {type: "file", multiple: ""});
    input.onchange = () => give([...input.files]);
    input.click();
  };
})();
