// Downloads, one after the other. A large file, and a folder's zip, are fetched by the page, which goes on where
// the wire was cut, as often as it is; Chromium by itself does so five times (measured).
(() => {
  const SMALL = 8e6;  // bytes; up to here the browser does it
  const LARGE = 1e9;  // bytes; from here on it does, too: the page would need the disk twice
  const TOGETHER = 8e6;  // bytes in memory before the browser may put them on its disk
  let box, last = Promise.resolve(), running = 0, control = new AbortController();

  const mega = bytes => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);

  async function ask(method, url, name, headers = {}) {
    const {signal} = control;
    const answer = await fetch(url, {method, headers, signal}).catch(() => {
      throw new CutError(`${name}: the connection was lost.`);
    });
    if (answer.ok) return answer;
    throw refusal(name, answer.status, answer.headers.get("content-type"), await answer.text().catch(() => ""));
  }

  function save(url, name) {
    const link = makeElement("a", {href: url, download: name});
    document.body.append(link);
    link.click();
    link.remove();
  }

  // Fetch a file whole, in as many requests as it takes.
  async function fetchFile(url, name) {
    const blobs = [];
    let chunks = [], waiting = 0, have = 0, all = 0, tag = "";
    const gather = () => { blobs.push(new Blob(chunks)); chunks = []; waiting = 0; };

    // Whether it came to its end, and not to that of its wire.
    async function read(answer) {
      const reader = answer.body.getReader();
      // A wire that is cut without a word never ends by itself.
      const silent = () => setTimeout(() => reader.cancel().catch(() => {}), 60e3);
      for (let watch = silent();; watch = silent()) {
        const {done, value} = await reader.read().finally(() => clearTimeout(watch));
        if (done) return !(have < all);
        chunks.push(value);
        have += value.length;
        waiting += value.length;
        if (waiting > TOGETHER) gather();
        box.show(`Downloading ${name}: ${mega(have)} of ${mega(all)} MB`, have / all);
      }
    }

    const saved = await box.persist(name, async () => {
      const answer = await ask("GET", url, name, have ? {Range: `bytes=${have}-`, "If-Range": tag} : {});
      if (have && answer.status !== 206) throw new Error(`${name}: it changed meanwhile; download it again.`);
      const before = have;
      tag = answer.headers.get("etag");
      all = have + Number(answer.headers.get("content-length") ?? NaN);  // a proxy may leave it out
      if (all > LARGE) {
        await answer.body.cancel();
        save(url, name);
        return "by the browser";
      }
      if (await read(answer).catch(() => false)) return "by the page";
      if (have === before) throw new CutError(`${name}: the connection was lost.`);
    }, control.signal);
    if (saved === "by the browser") return false;
    gather();
    const whole = URL.createObjectURL(new Blob(blobs));
    save(whole, name);
    setTimeout(() => URL.revokeObjectURL(whole), 60e3);
    return true;
  }

  // A folder is packed first; each question about it is short.
  async function fetchZip(folder, name) {
    const url = `${folder}?zip=${crypto.randomUUID()}`;
    let here = true;
    try {
      await box.persist(name, async () => {
        const {done, size, ready} = await (await ask("POST", url, name)).json();
        box.show(`Packing ${name}: ${mega(done)} of ${mega(size)} MB`, size ? done / size : 0);
        if (!ready) await sleep(300, control.signal);
        return ready;
      }, control.signal);
      here = await fetchFile(url, name);
    } finally {
      if (here) fetch(url, {method: "DELETE", keepalive: true}).catch(() => {});
    }
  }

  async function take(fetcher, url, name) {
    try {
      if (!control.signal.aborted) await fetcher(url, name);
    } catch (error) {
      box.fail(error.message);
    }
    if (!--running) box.show("", 0);
  }

  addEventListener("click", event => {
    const link = event.target.closest?.("[data-name]");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const {name, size, folder} = link.dataset;
    if (!folder && size <= SMALL) return;
    event.preventDefault();
    box ??= new TransferBox("Downloads", () => control.abort());
    if (!running++) {
      control = new AbortController();
      box.clear();
      box.show(`Downloading ${name}`, 0);
    }
    const [fetcher, url] = folder ? [fetchZip, folder] : [fetchFile, link.href];
    last = last.then(() => take(fetcher, url, name));
  });
  addEventListener("beforeunload", event => { if (running) event.preventDefault(); });
})();
