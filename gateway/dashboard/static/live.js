// Keeps a page up to date. An element with data-live="topic …" is fetched again when one of its topics changes.
// The stream names topics only; what they are about is fetched, with the rights of the person who is signed in.
"use strict";
(() => {
  const PAUSE = 250; // milliseconds between two fetches of one element, at least
  const HIDDEN = 20000; // milliseconds after which a hidden tab closes its stream
  const SLOWEST = 15000; // milliseconds between two attempts to connect, at most

  const page = document.documentElement;
  let source = null;
  let lastSeen = "";
  let delay = 1000;
  let closing = 0;
  const waiting = new Map(); // element -> timer
  const fetched = new WeakMap(); // element -> when

  const status = (text) => {
    const shown = document.getElementById("live");
    if (shown && shown.textContent !== text) shown.textContent = text;
  };

  const isTyping = (element) =>
    element.contains(document.activeElement) && /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);

  const fetchAgain = (element) => {
    if (waiting.has(element)) return;
    const since = Date.now() - (fetched.get(element) || 0);
    waiting.set(element, setTimeout(() => {
      waiting.delete(element);
      if (!element.isConnected) return;
      if (isTyping(element)) {
        fetched.set(element, Date.now() + 1000 - PAUSE);
        fetchAgain(element);
        return;
      }
      fetched.set(element, Date.now());
      window.htmx.trigger(element, "live");
    }, Math.max(0, PAUSE - since)));
  };

  const changed = (topics) => {
    const all = topics.includes("everything");
    for (const element of document.querySelectorAll("[data-live]")) {
      const own = element.dataset.live.split(" ");
      if (all || own.some((topic) => topics.includes(topic))) fetchAgain(element);
    }
  };

  // A stream does not say why it ended. Of a signed-out person, the whole page goes to the sign-in.
  const leaveIfSignedOut = async () => {
    try {
      const answer = await fetch(page.dataset.prefix + "/signed-in");
      if (answer.status === 401) window.location.reload();
    } catch { /* the gateway is away: it is asked again after the next attempt */ }
  };
  document.addEventListener("pushdeploy:stream-lost", leaveIfSignedOut);

  const connect = () => {
    if (source || !page.dataset.stream || !document.querySelector("[data-live]")) return;
    const from = lastSeen ? "?after=" + encodeURIComponent(lastSeen) : "";
    source = new EventSource(page.dataset.stream + from);
    source.addEventListener("open", () => { delay = 1000; status("live"); });
    source.addEventListener("changed", (event) => { lastSeen = event.lastEventId; changed(JSON.parse(event.data)); });
    source.addEventListener("error", () => {
      disconnect();
      leaveIfSignedOut();
      status("reconnecting …");
      setTimeout(connect, delay);
      delay = Math.min(delay * 2, SLOWEST);
    });
  };

  const disconnect = () => {
    if (source) source.close();
    source = null;
  };

  document.addEventListener("visibilitychange", () => {
    clearTimeout(closing);
    if (document.hidden) {
      closing = setTimeout(() => { disconnect(); status("paused"); }, HIDDEN);
    } else {
      connect();
    }
  });
  window.addEventListener("online", () => { disconnect(); delay = 1000; connect(); });
  // Of a signed-out person, nothing is fetched into the page: the whole page goes to the sign-in.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (isTyping(event.detail.target)) event.detail.shouldSwap = false;
    if (event.detail.xhr.status === 401) { event.detail.shouldSwap = false; window.location.reload(); }
  });

  // -- times

  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const ago = (moment) => {
    const passed = Math.floor((Date.now() - moment.getTime()) / 1000);
    if (passed < 1) return "now";
    const [size, unit] = units.find(([least]) => passed >= least);
    return Math.floor(passed / size) + " " + unit + " ago";
  };
  const localTimes = () => {
    for (const shown of document.querySelectorAll("time[datetime]")) {
      const moment = new Date(shown.dateTime);
      const absolute = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
      const text = shown.classList.contains("ago") ? ago(moment) : absolute;
      if (shown.textContent !== text) shown.textContent = text;
      if (shown.title !== absolute) shown.title = absolute;
    }
  };
  setInterval(localTimes, 1000);
  document.addEventListener("htmx:afterSwap", localTimes);

  // -- keys: / searches, g and a letter goes to a page, ? shows the list

  const pages = { o: "", d: "/deployments", i: "/inbox", w: "/webhooks", r: "/registries", s: "/servers", k: "/keys", p: "/projects", a: "/audit", v: "/approvals", l: "/releases" };
  let going = 0;
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.target.isContentEditable;
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") {
      const search = document.querySelector("input[type=search]");
      if (search) { event.preventDefault(); search.focus(); search.select(); }
    } else if (event.key === "?") {
      const help = document.getElementById("keys");
      if (help && help.showModal) { event.preventDefault(); help.showModal(); }
    } else if (event.key === "g") {
      going = Date.now();
    } else if (going && Date.now() - going < 1500 && event.key in pages && page.dataset.prefix) {
      event.preventDefault();
      window.location.href = page.dataset.prefix + pages[event.key];
    }
  });

  document.addEventListener("DOMContentLoaded", () => {
    localTimes();
    connect();
    for (const button of document.querySelectorAll("[data-copy]")) {
      button.hidden = !navigator.clipboard;
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
        button.textContent = "Copied";
      });
    }
  });
})();
