// Search on pages that are opened from a folder. Browsers refuse to start workers there, so a hidden frame replaces the
// worker. Material for MkDocs looks for a class named `IFrameWorker`, and by default loads one from a CDN.
"use strict";

class IFrameWorker extends EventTarget {
  onmessage = null;
  onerror = null;

  constructor(url) {
    super();
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    this.frame.worker = this;
    document.body.append(this.frame);
    this.ready = new Promise((resolve) => this.frame.addEventListener("load", resolve, { once: true }));
    const page = this.frame.contentWindow.document;
    page.open();
    page.write(`<body><script>
      postMessage = (data) => frameElement.worker.receive("message", { data });
      importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((resolve, reject) => {
        const script = document.createElement("script");
        Object.assign(script, { src: url, onload: resolve, onerror: reject });
        document.body.append(script);
      })), Promise.resolve());
      addEventListener("error", (event) => frameElement.worker.receive("error", { data: event.message }));
    <\/script><script src="${encodeURI(url)}"><\/script></body>`);
    page.close();
  }

  receive(kind, content) {
    const event = new MessageEvent(kind, content);
    this.dispatchEvent(event);
    this[`on${kind}`]?.(event);
  }

  async postMessage(data) {
    await this.ready;
    this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) }));
  }

  terminate() {
    this.frame.remove();
  }
}

window.IFrameWorker = IFrameWorker;
if (location.protocol === "file:") window.Worker = IFrameWorker;
