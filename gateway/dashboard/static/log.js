// Follows the log of a container. Lines are kept in chunks that the browser need not lay out while they are out of sight.
"use strict";
(() => {
  const CHUNK = 500; // lines
  const MOST = 200; // chunks that are shown; older lines go
  const COLOURS = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

  const start = () => {
    const shown = document.getElementById("log-lines");
    if (!shown) return;
    const status = document.getElementById("log-status");
    const pause = document.getElementById("log-pause");
    const search = document.getElementById("log-search");
    const stamps = document.getElementById("log-times");
    let paused = false;
    let waiting = []; // lines that are not drawn yet
    let kept = []; // all lines: [time, text]
    let drawing = false;
    let last = "";
    let count = 0;
    let chunk = null;
    let inChunk = 0;
    let wanted = document.getElementById("log-search").value.toLowerCase();

    const say = (what) => { if (status.textContent !== what) status.textContent = what; };
    const text = (name, number = 0, more = 0) =>
      shown.dataset["text" + name].replace("{number}", number).replace("{more}", more);

    const control = /\u001b(?:\[([0-9;?]*)([@-~])|\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[@-Z\\-_])/g;
    // What a line says to who reads it: without its colours.
    const plain = (text) => (text.includes("\u001b") ? text.replace(control, "") : text);

    // Adds text with its colours; other control sequences are left out.
    const draw = (parent, text) => {
      let colour = "", bold = false, from = 0;
      control.lastIndex = 0;
      const add = (part) => {
        part = part.replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, "");
        if (!part) return;
        if (!colour && !bold) { parent.append(part); return; }
        const span = document.createElement("span");
        span.className = (colour ? "ansi-" + colour : "") + (bold ? " ansi-bold" : "");
        span.textContent = part;
        parent.append(span);
      };
      for (let found; (found = control.exec(text)); from = control.lastIndex) {
        add(text.slice(from, found.index));
        if (found[2] !== "m") continue;
        for (const code of (found[1] || "0").split(";").map(Number)) {
          if (code === 0) { colour = ""; bold = false; }
          else if (code === 1) bold = true;
          else if (code === 22) bold = false;
          else if (code === 39) colour = "";
          else if (code >= 30 && code <= 37) colour = COLOURS[code - 30];
          else if (code >= 90 && code <= 97) colour = COLOURS[code - 90];
        }
      }
      add(text.slice(from));
    };

    const append = (line) => {
      if (wanted && !plain(line[1]).toLowerCase().includes(wanted)) return;
      if (!chunk || inChunk >= CHUNK) {
        chunk = document.createElement("div");
        chunk.className = "chunk";
        shown.append(chunk);
        inChunk = 0;
        while (shown.childElementCount > MOST) shown.firstElementChild.remove();
      }
      if (stamps.checked) {
        const time = document.createElement("span");
        time.className = "stamp";
        time.textContent = new Date(line[0]).toLocaleTimeString() + " ";
        chunk.append(time);
      }
      draw(chunk, line[1]);
      chunk.append("\n");
      inChunk += 1;
    };

    const drawWaiting = () => {
      drawing = false;
      if (paused) return;
      const atEnd = shown.scrollHeight - shown.scrollTop - shown.clientHeight < 40;
      // A few at a time, so that the page answers meanwhile.
      const until = performance.now() + 12;
      let done = 0;
      while (done < waiting.length && performance.now() < until) append(waiting[done++]);
      waiting.splice(0, done);
      if (atEnd) shown.scrollTop = shown.scrollHeight;
      say(waiting.length ? text("Waiting", count, waiting.length) : text("Lines", count));
      if (waiting.length) schedule();
    };
    const schedule = () => { if (!drawing) { drawing = true; requestAnimationFrame(drawWaiting); } };

    const redraw = () => {
      shown.replaceChildren();
      chunk = null;
      waiting = kept.slice();
      schedule();
    };

    pause.addEventListener("click", () => {
      paused = !paused;
      pause.textContent = text(paused ? "On" : "Pause");
      pause.setAttribute("aria-pressed", String(paused));
      if (!paused) { shown.scrollTop = shown.scrollHeight; schedule(); }
    });
    search.addEventListener("input", () => { wanted = search.value.toLowerCase(); redraw(); });
    stamps.addEventListener("change", redraw);

    const SILENCE = 40000; // milliseconds without any event after which the connection is taken for dead
    let source = null;
    let silent = 0;
    const heard = () => { clearTimeout(silent); silent = setTimeout(connect, SILENCE); };
    const connect = () => {
      if (source) source.close();
      heard();
      source = new EventSource(shown.dataset.stream + (last ? "&after=" + encodeURIComponent(last) : ""));
      source.addEventListener("lines", (event) => {
        const lines = JSON.parse(event.data);
        last = event.lastEventId;
        heard();
        count += lines.length;
        document.getElementById("log-none")?.remove();
        for (const line of lines) { waiting.push(line); kept.push(line); }
        if (kept.length > CHUNK * MOST) kept = kept.slice(-CHUNK * MOST);
        if (waiting.length > CHUNK * MOST) waiting = waiting.slice(-CHUNK * MOST);
        schedule();
      });
      source.addEventListener("open", () => { if (!count) say(text("Lines", 0)); });
      source.addEventListener("beat", heard);
      source.addEventListener("ended", (event) => {
        const [why] = JSON.parse(event.data);
        say(why || text("Ended"));
        source.close();
        setTimeout(connect, 2000);
      });
      source.addEventListener("error", () => {
        say(document.body.dataset.textReconnecting);
        source.close();
        document.dispatchEvent(new Event("pushdeploy:stream-lost"));
        setTimeout(connect, 2000);
      });
    };
    shown.replaceChildren();
    document.getElementById("log-controls").hidden = false;
    connect();
  };
  document.addEventListener("DOMContentLoaded", start);
})();
