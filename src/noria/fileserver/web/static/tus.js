// Upload of one file by tus 1.0: POST creates it, HEAD gets its offset, PATCH sends bytes.

export const CHUNK = 8 * 1024 * 1024; // bytes of one PATCH
const VERSION = { "Tus-Resumable": "1.0.0" };
const MIN_PAUSE = 1000, MAX_PAUSE = 30000; // ms between attempts

// An upload that failed. `retryable`: another attempt may succeed.
export class UploadError extends Error {
  constructor(message, retryable, status = 0) {
    super(message);
    this.retryable = retryable;
    this.status = status;
  }
}

// A request by XMLHttpRequest, because fetch() does not report upload progress.
export function send(method, url, { headers = {}, body = null, progress = null, signal } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    if (progress) request.upload.onprogress = (event) => progress(event.loaded);
    request.onload = () => resolve(request);
    request.onerror = () => reject(new UploadError("connection lost", true));
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    if (signal?.aborted) return request.onabort();
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(body);
  });
}

// Throws UploadError unless the status is one of `expected`, with the server's message if any.
export function check(request, ...expected) {
  const { status } = request;
  if (expected.includes(status)) return request;
  const plain = (request.getResponseHeader("Content-Type") ?? "").startsWith("text/plain");
  const message = plain ? request.responseText.trim().slice(0, 300) : "";
  const retryable = [408, 423, 425, 429, 460].includes(status) || status >= 500 && status !== 507;
  throw new UploadError(message || `the server responded ${status} ${request.statusText}`, retryable, status);
}

const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

export class Upload {
  // `directory` is decoded and ends in "/". `onProgress(offset)` is called while bytes are sent,
  // `onRetry(message, milliseconds)` before the pause that follows a failed attempt.
  constructor(file, directory, { onProgress, onRetry }) {
    Object.assign(this, { file, directory, onProgress, onRetry });
    this.key = `noria ${directory}${file.name} ${file.size} ${file.lastModified}`;
    this.sent = 0; // bytes sent by all attempts
    this.confirmed = 0; // bytes that the server has confirmed
  }

  // Uploads the file, with as many attempts as needed. Throws errors that are not retryable.
  async run(signal) {
    for (let failed = 0; ;) {
      const before = this.sent;
      try {
        return await this.attempt(signal);
      } catch (error) {
        if (!error.retryable) throw error;
        failed = this.sent > before ? 1 : failed + 1;
        const pause = Math.min(MIN_PAUSE * 2 ** (failed - 1), MAX_PAUSE) * (0.5 + Math.random() / 2);
        this.onRetry(error.message, pause);
        await sleep(pause, signal);
      }
    }
  }

  async attempt(signal) {
    if (this.file.size === 0) return this.sendEmpty(signal);
    let location = recall(this.key);
    let offset = location ? await this.getOffset(location, signal) : null;
    if (offset === null) [location, offset] = [await this.create(signal), 0];
    this.confirmed = offset;
    this.onProgress(offset);
    while (offset < this.file.size) {
      const chunk = this.file.slice(offset, offset + CHUNK);
      const at = offset;
      const response = await send("PATCH", location, {
        headers: {
          ...VERSION,
          "Upload-Offset": String(offset),
          "Content-Type": "application/offset+octet-stream",
        },
        body: chunk,
        progress: (loaded) => this.onProgress(at + loaded),
        signal,
      });
      if ([404, 410].includes(response.status)) {
        forget(this.key);
        throw new UploadError("the server has removed the upload; restarting", true);
      }
      if (response.status === 409) throw new UploadError("the server is at another offset", true);
      check(response, 200, 204);
      offset = Number(response.getResponseHeader("Upload-Offset"));
      if (!(offset > at && offset <= this.file.size)) {
        throw new UploadError("the server did not accept any bytes", true);
      }
      this.sent += offset - at;
      this.confirmed = offset;
      this.onProgress(offset);
    }
    forget(this.key);
  }

  async create(signal) {
    // tus does not require servers to support If-None-Match.
    const existing = await send("HEAD", this.path(), { signal });
    if (existing.status === 200) throw new UploadError("a file with that name already exists", false);
    const fields = { filename: this.file.name, directory: this.directory };
    const metadata = Object.entries(fields).map(([key, value]) => `${key} ${base64(value)}`);
    const response = check(await send("POST", "/-/uploads/", {
      headers: {
        ...VERSION,
        "If-None-Match": "*",
        "Upload-Length": String(this.file.size),
        "Upload-Metadata": metadata.join(","),
      },
      signal,
    }), 201);
    const location = new URL(response.getResponseHeader("Location"), document.baseURI);
    if (location.host !== document.location.host) {
      throw new UploadError("the server redirects the upload to another host", false);
    }
    remember(this.key, location.pathname);
    return location.pathname;
  }

  // The offset of the upload, or null if the server does not have it any more.
  async getOffset(location, signal) {
    const response = await send("HEAD", location, { headers: VERSION, signal });
    if ([403, 404, 410].includes(response.status)) {
      forget(this.key);
      return null;
    }
    check(response, 200, 204);
    return Number(response.getResponseHeader("Upload-Offset"));
  }

  path() {
    return (this.directory + this.file.name).split("/").map(encodeURIComponent).join("/");
  }

  async sendEmpty(signal) {
    check(await send("PUT", this.path(), { headers: { "If-None-Match": "*" }, body: "", signal }), 201);
  }

  // Removes the upload from the server too.
  async cancel() {
    const location = recall(this.key);
    forget(this.key);
    if (location) await send("DELETE", location, { headers: VERSION }).catch(() => {});
  }
}

// Sleeps, but ends early when the network is back.
function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const end = () => { clearTimeout(timer); removeEventListener("online", end); resolve(); };
    const timer = setTimeout(end, milliseconds);
    addEventListener("online", end);
    const stop = () => { end(); reject(new DOMException("stopped", "AbortError")); };
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}

// The URLs of uploads are kept in localStorage, or in this page if there is no storage.
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
