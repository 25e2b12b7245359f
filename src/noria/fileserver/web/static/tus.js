// One file sent by tus 1.0: made by POST, asked after by HEAD, carried on with by PATCH.

export const CHUNK = 8 * 1024 * 1024; // bytes of one PATCH
const VERSION = { "Tus-Resumable": "1.0.0" };
const FIRST = 1000, LONGEST = 30000; // ms between attempts

// Why something did not go well; `passing` if it may the next time.
export class Trouble extends Error {
  constructor(message, passing, status = 0) {
    super(message);
    this.passing = passing;
    this.status = status;
  }
}

// A request by XMLHttpRequest: fetch() does not tell how much of a body has gone.
export function send(method, url, { headers = {}, body = null, progress = null, signal } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    if (progress) request.upload.onprogress = (event) => progress(event.loaded);
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Trouble("connection lost", true));
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    if (signal?.aborted) return request.onabort();
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(body);
  });
}

// Throws unless the status is one of `good`, with the server's own sentence if it gives one.
export function check(request, ...good) {
  const { status } = request;
  if (good.includes(status)) return request;
  const plain = (request.getResponseHeader("Content-Type") ?? "").startsWith("text/plain");
  const said = plain ? request.responseText.trim().slice(0, 300) : "";
  const passing = [408, 423, 425, 429, 460].includes(status) || status >= 500 && status !== 507;
  throw new Trouble(said || `the server says ${status} ${request.statusText}`, passing, status);
}

const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

export class Upload {
  // `directory` is decoded and ends in "/". `tell(offset)` is called as bytes go, and
  // `wait(message, milliseconds)` while nothing does.
  constructor(file, directory, { tell, wait }) {
    Object.assign(this, { file, directory, tell, wait });
    this.key = `noria ${directory}${file.name} ${file.size} ${file.lastModified}`;
    this.moved = 0; // bytes that any attempt brought over
    this.there = 0; // bytes that the server is known to have
  }

  // Sends all of it, over as many attempts as it takes; ends early only by what cannot pass.
  async run(signal) {
    for (let failed = 0; ;) {
      const before = this.moved;
      try {
        return await this.attempt(signal);
      } catch (error) {
        if (!error.passing) throw error;
        failed = this.moved > before ? 1 : failed + 1;
        const pause = Math.min(FIRST * 2 ** (failed - 1), LONGEST) * (0.5 + Math.random() / 2);
        this.wait(error.message, pause);
        await rest(pause, signal);
      }
    }
  }

  async attempt(signal) {
    if (this.file.size === 0) return this.empty(signal);
    let location = recall(this.key);
    let offset = location ? await this.offset(location, signal) : null;
    if (offset === null) [location, offset] = [await this.create(signal), 0];
    this.there = offset;
    this.tell(offset);
    while (offset < this.file.size) {
      const chunk = this.file.slice(offset, offset + CHUNK);
      const at = offset;
      const answer = await send("PATCH", location, {
        headers: {
          ...VERSION,
          "Upload-Offset": String(offset),
          "Content-Type": "application/offset+octet-stream",
        },
        body: chunk,
        progress: (loaded) => this.tell(at + loaded),
        signal,
      });
      if ([404, 410].includes(answer.status)) {
        forget(this.key);
        throw new Trouble("the server gave the upload up; beginning again", true);
      }
      if (answer.status === 409) throw new Trouble("the server stands elsewhere", true);
      check(answer, 200, 204);
      offset = Number(answer.getResponseHeader("Upload-Offset"));
      if (!(offset > at && offset <= this.file.size)) {
        throw new Trouble("the server took nothing of it", true);
      }
      this.moved += offset - at;
      this.there = offset;
      this.tell(offset);
    }
    forget(this.key);
  }

  async create(signal) {
    // tus does not say that servers heed If-None-Match.
    const there = await send("HEAD", this.path(), { signal });
    if (there.status === 200) throw new Trouble("there is a file of that name already", false);
    const fields = { filename: this.file.name, directory: this.directory };
    const metadata = Object.entries(fields).map(([key, value]) => `${key} ${base64(value)}`);
    const answer = check(await send("POST", "/-/uploads/", {
      headers: {
        ...VERSION,
        "If-None-Match": "*",
        "Upload-Length": String(this.file.size),
        "Upload-Metadata": metadata.join(","),
      },
      signal,
    }), 201);
    const location = new URL(answer.getResponseHeader("Location"), document.baseURI);
    if (location.host !== document.location.host) {
      throw new Trouble("the server sends the upload elsewhere", false);
    }
    remember(this.key, location.pathname);
    return location.pathname;
  }

  // How much of it the server has, or null if it does not know of it any more.
  async offset(location, signal) {
    const answer = await send("HEAD", location, { headers: VERSION, signal });
    if ([403, 404, 410].includes(answer.status)) {
      forget(this.key);
      return null;
    }
    check(answer, 200, 204);
    return Number(answer.getResponseHeader("Upload-Offset"));
  }

  path() {
    return (this.directory + this.file.name).split("/").map(encodeURIComponent).join("/");
  }

  async empty(signal) {
    check(await send("PUT", this.path(), { headers: { "If-None-Match": "*" }, body: "", signal }), 201);
  }

  // Ends it on the server too.
  async cancel() {
    const location = recall(this.key);
    forget(this.key);
    if (location) await send("DELETE", location, { headers: VERSION }).catch(() => {});
  }
}

// Waits, but no longer than until the network is back.
function rest(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const end = () => { clearTimeout(timer); removeEventListener("online", end); resolve(); };
    const timer = setTimeout(end, milliseconds);
    addEventListener("online", end);
    const stop = () => { end(); reject(new DOMException("stopped", "AbortError")); };
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}

// Where uploads stand outlives the page; without storage it lives as long as the page does.
const inPage = new Map();
function recall(key) {
  try { return localStorage.getItem(key) ?? inPage.get(key); } catch { return inPage.get(key); }
}
function remember(key, value) {
  inPage.set(key, value);
  try { localStorage.setItem(key, value); } catch { /* full, or forbidden */ }
}
function forget(key) {
  inPage.delete(key);
  try { localStorage.removeItem(key); } catch { /* forbidden */ }
}
