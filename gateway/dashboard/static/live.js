// Keeps a page up to date. An element with data-live="topic …" is fetched again when one of its topics changes.
// The stream names topics only; what they are about is fetched, with the rights of the person who is signed in.
"use strict";
(() => {
  const PAUSE = 250; // milliseconds between two fetches of one element, at least
  const HIDDEN = 20000; // milliseconds after which a hidden tab closes its stream
  const SLOWEST = 15000; // milliseconds between two attempts to connect, at most
  const RETRY = 2000; // milliseconds until an element that could not be fetched is fetched again
  const SILENCE = 40000; // milliseconds without any event after which the connection is taken for dead

  const page = document.documentElement;
  const text = (name) => document.body.dataset["text" + name];
  let source = null;
  let lastSeen = "";
  let delay = 1000;
  let closing = 0;
  let silent = 0;
  const waiting = new Map(); // element -> timer
  const fetched = new WeakMap(); // element -> when

  const status = (what) => {
    const shown = document.getElementById("live");
    if (shown && shown.textContent !== what) shown.textContent = what;
  };

  const isTyping = (element) =>
    element.contains(document.activeElement) && /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);

  // A form that is sent leads to another page: what this one shows may be gone meanwhile.
  let leaving = false;
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    leaving = true;
    setTimeout(() => { leaving = false; }, 10000);
  });

  const fetchAgain = (element) => {
    if (waiting.has(element) || leaving) return;
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

  // A request over a connection that was lost with the network is never answered, and those after it would wait for it.
  for (const failure of ["htmx:timeout", "htmx:sendError"]) {
    document.addEventListener(failure, (event) => {
      const element = event.detail.elt;
      if (element.dataset.live) setTimeout(() => fetchAgain(element), RETRY);
    });
  }

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
    // Of other topics the gateway tells nothing: a tab that shows one deployment is not woken by all the others.
    const shown = [...document.querySelectorAll("[data-live]")].flatMap((element) => element.dataset.live.split(" "));
    const asked = new URLSearchParams({ topics: [...new Set(shown)].join(" ") });
    if (lastSeen) asked.set("after", lastSeen);
    source = new EventSource(page.dataset.stream + "?" + asked);
    const lost = () => {
      disconnect();
      leaveIfSignedOut();
      status(text("Reconnecting"));
      setTimeout(connect, delay);
      delay = Math.min(delay * 2, SLOWEST);
    };
    // A network that is cut says nothing: then the beats stay away.
    const heard = () => { clearTimeout(silent); silent = setTimeout(lost, SILENCE); };
    heard();
    source.addEventListener("open", () => { delay = 1000; status(text("Live")); heard(); });
    source.addEventListener("changed", (event) => {
      lastSeen = event.lastEventId;
      heard();
      changed(JSON.parse(event.data));
    });
    source.addEventListener("beat", heard);
    source.addEventListener("error", lost);
  };

  const disconnect = () => {
    clearTimeout(silent);
    if (source) source.close();
    source = null;
  };

  document.addEventListener("visibilitychange", () => {
    clearTimeout(closing);
    if (document.hidden) {
      closing = setTimeout(() => { disconnect(); status(text("Paused")); }, HIDDEN);
    } else {
      connect();
    }
  });
  window.addEventListener("online", () => { disconnect(); delay = 1000; connect(); });
  // Nothing is fetched into the page of a signed-out person, which goes to the sign-in; nor of what is gone, which says so.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (isTyping(event.detail.target)) event.detail.shouldSwap = false;
    if ([401, 403, 404].includes(event.detail.xhr.status)) {
      event.detail.shouldSwap = false;
      if (!leaving) window.location.reload();
    }
  });

  // -- times

  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const relative = (moment, said) => {
    const passed = Math.floor((Date.now() - moment.getTime()) / 1000);
    if (passed < 1) return text("Now");
    const [size, unit] = units.find(([least]) => passed >= least);
    return text(said).replace("{length}", Math.floor(passed / size) + " " + unit);
  };
  const localTimes = () => {
    for (const shown of document.querySelectorAll("time[datetime]")) {
      const moment = new Date(shown.dateTime);
      const absolute = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
      const kind = ["Ago", "Lasting"].find((one) => shown.classList.contains(one.toLowerCase()));
      const said = kind ? relative(moment, kind) : absolute;
      if (shown.textContent !== said) shown.textContent = said;
      if (shown.title !== absolute) shown.title = absolute;
    }
  };
  setInterval(localTimes, 1000);
  document.addEventListener("htmx:afterSwap", localTimes);

  // -- keys: / searches, g and a letter goes to a page, ? shows the list

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
    } else if (going && Date.now() - going < 1500 && /^[a-z]$/.test(event.key)) {
      const link = document.querySelector(`nav a[data-key=${event.key}]`);
      if (link) { event.preventDefault(); link.click(); }
    }
  });

  document.addEventListener("DOMContentLoaded", () => {
    localTimes();
    connect();
    for (const button of document.querySelectorAll("[data-copy]")) {
      button.hidden = !navigator.clipboard;
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
        button.textContent = text("Copied");
      });
    }
  });
})();
