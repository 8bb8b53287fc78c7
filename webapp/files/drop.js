// Files that are dropped, pasted or chosen go to /files/, three at a time; their paths are then pasted into the terminal.
const giveFiles = (() => {
  const LIMIT = 500e6, AT_ONCE = 3;
  let box, bar, words, stop, errors, sending = new Set(), waiting = [];
  let files = 0, done = 0, bytes = 0, sent = 0, stopped = false, batches = 0;

  const make = (kind, attributes, text) => {
    const element = document.createElement(kind);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text ?? "";
    return element;
  };

  function show() {
    if (!box) {
      box = make("section", {class: "giving", "aria-label": "Files on their way in"});
      words = make("div", {role: "status"});
      bar = make("progress", {"aria-label": "Sent", max: 1});
      errors = make("ul", {role: "alert"});
      stop = make("button", {type: "button"});
      stop.onclick = () => {
        if (!batches) return void (box.hidden = true);
        stopped = true;
        waiting.splice(0).forEach(job => job.no(new Error("stopped.")));
        sending.forEach(request => request.abort());
      };
      box.append(words, bar, errors, stop);
      document.body.append(box);
    }
    const now = [...sending].reduce((sum, request) => sum + request.loaded, sent);
    box.hidden = !batches && !errors.childElementCount;
    words.hidden = bar.hidden = !batches;
    words.textContent = `${done} of ${files} ${files === 1 ? "file" : "files"} sent to ~/projects/uploads`;
    bar.value = bytes ? now / bytes : 0;
    stop.textContent = batches ? "Stop" : "Close";
  }

  // One POST. A path that ends in a slash makes a folder.
  const post = (path, file) => new Promise((ok, no) => {
    const request = new XMLHttpRequest();
    request.loaded = 0;
    request.open("POST", "/files/" + path.split("/").map(encodeURIComponent).join("/"));
    request.responseType = "text";
    request.upload.onprogress = event => { request.loaded = event.loaded; show(); };
    request.onload = () => {
      let answer = null;
      try { answer = JSON.parse(request.response); } catch { /* a refusal is a line of text, or a proxy's page */ }
      if (request.status === 200 && answer) return ok(answer);
      const line = request.getResponseHeader("content-type")?.startsWith("text/plain") && request.response.trim();
      no(new Error(line || `${path}: HTTP ${request.status}.`));
    };
    request.onerror = () => no(new Error(`${path}: the connection was lost, or the file cannot be read.`));
    request.onabort = () => no(new Error(`${path}: stopped.`));
    request.onloadend = () => { sending.delete(request); next(); };
    sending.add(request);
    request.send(file);
  });

  function next() {
    while (waiting.length && sending.size < AT_ONCE) {
      const {path, file, ok, no} = waiting.shift();
      post(path, file).then(ok, no);
    }
  }

  const queue = (path, file) => new Promise((ok, no) => {
    if (stopped) return no(new Error(`${path}: stopped.`));
    if (file?.size > LIMIT) return no(new Error(`${path}: it has more than ${LIMIT / 1e6} MB.`));
    waiting.push({path, file, ok, no});
    next();
  });

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

  const fail = error => { if (errors.childElementCount < 20) errors.append(make("li", {}, error.message)); show(); };

  // A folder's entries come in pieces; it is done when all that is in it is.
  async function folder(entry, path) {
    const reader = entry.createReader(), jobs = [];
    for (let some = [0]; some.length && !stopped; ) {
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
    if (!batches++) {
      files = done = bytes = sent = 0;
      stopped = false;
      errors?.replaceChildren();
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
    const input = make("input", {type: "file", multiple: ""});
    input.onchange = () => give([...input.files]);
    input.click();
  };
})();
