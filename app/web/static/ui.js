// Colour mode, copy buttons, times that stay true, and live parts. Every page works without this file.
"use strict";

(() => {
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const setMode = () => { root.dataset.bsTheme = prefersDark.matches ? "dark" : "light"; };
  setMode();
  prefersDark.addEventListener("change", setMode);
  root.classList.add("js");

  // Times: the same words as app/web/formatting.py

  const MINUTE = 60, HOUR = 3600, DAY = 86400;
  const two = (number) => String(number).padStart(2, "0");

  function duration(seconds) {
    const whole = Math.max(0, Math.floor(seconds));
    const [days, hours, minutes] = [whole / DAY, whole % DAY / HOUR, whole % HOUR / MINUTE].map(Math.floor);
    if (whole < MINUTE) return `${whole}s`;
    if (whole < HOUR) return `${minutes}m ${two(whole % MINUTE)}s`;
    return whole < DAY ? `${hours}h ${two(minutes)}m` : `${days}d ${two(hours)}h`;
  }

  function age(seconds) {
    for (const [size, unit] of [[DAY, "d"], [HOUR, "h"], [MINUTE, "min"]]) {
      if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
    }
    return seconds >= 5 ? `${Math.floor(seconds)} s ago` : "just now";
  }

  let serverIsAhead = 0; // milliseconds

  function tick() {
    for (const time of document.querySelectorAll("time[data-age], time[data-elapsed]")) {
      const seconds = (Date.now() + serverIsAhead - Date.parse(time.dateTime)) / 1000;
      const words = "age" in time.dataset ? age(seconds) : duration(seconds);
      if (time.textContent !== words) time.textContent = words;
    }
  }

  // Copying: the clipboard API is missing on plain http, except on loopback

  function copyBySelection(text) {
    const area = Object.assign(document.createElement("textarea"), { value: text, readOnly: true });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }

  async function copy(button) {
    if (navigator.clipboard) await navigator.clipboard.writeText(button.dataset.copy).catch(() => copyBySelection(button.dataset.copy));
    else copyBySelection(button.dataset.copy);
    button.focus();
    button.classList.add("done");
    announce("Copied");
    setTimeout(() => button.classList.remove("done"), 1500);
  }

  function announce(words) {
    const announcer = document.querySelector("[data-announcer]");
    if (announcer) announcer.textContent = words;
  }

  // Live parts: the server renders them, we put in those that changed

  const shown = new Map(); // id of a live part -> its HTML as the server sent it
  const withoutTimes = (html) => html.replace(/(<time [^>]*>)[^<]*/g, "$1");

  function statesIn(part) {
    const marked = part.matches("[data-run]") ? [part] : part.querySelectorAll("[data-run]");
    return new Map(Array.from(marked, ({ dataset }) => [dataset.run, dataset]));
  }

  function announceChanges(before, after) {
    const was = statesIn(before);
    const changed = [...statesIn(after)].filter(([run, data]) => was.has(run) && was.get(run).state !== data.state);
    if (changed.length > 3) announce(`${changed.length} runs changed their state`);
    else if (changed.length) announce(changed.map(([, data]) => `${data.name} is now ${data.state}`).join(", "));
  }

  function replacePart(old, fresh) {
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    for (const details of fresh.querySelectorAll("details[id]")) {
      const before = document.getElementById(details.id);
      if (before) details.open = before.open;
    }
    const places = Array.from(old.querySelectorAll("[data-keep-scroll]"), (box) => [box.id, box.scrollTop, box.scrollLeft]);
    old.replaceWith(fresh);
    for (const [id, top, left] of places) document.getElementById(id)?.scrollTo({ top, left });
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }

  function showFragment(html) {
    const page = document.createElement("template");
    page.innerHTML = html;
    const frame = page.content.firstElementChild;
    for (const part of frame.querySelectorAll("[data-live]")) {
      const old = document.getElementById(part.id);
      const text = withoutTimes(part.outerHTML);
      if (!old || shown.get(part.id) === text) continue;
      shown.set(part.id, text);
      announceChanges(old, part);
      replacePart(old, part);
    }
    if (frame.dataset.title) document.title = frame.dataset.title;
    return Number(frame.dataset.pollSeconds);
  }

  function follow(box) {
    const bar = document.querySelector("[data-live-bar]");
    const word = bar.querySelector("[data-live-word]");
    const button = bar.querySelector("[data-live-pause]");
    let seconds = Number(box.firstElementChild.dataset.pollSeconds);
    let etag = box.dataset.etag;
    const holds = "liveHolds" in box.dataset; // the server keeps the question until it has news
    let isPaused = false, timer = 0, failures = 0;

    function say(words, isStill) {
      if (word.textContent !== words) word.textContent = words;
      bar.classList.toggle("is-still", isStill);
    }

    function plan(delay) {
      clearTimeout(timer);
      if (isPaused || !seconds || document.hidden) return;
      timer = setTimeout(poll, delay * 1000);
    }

    function end(words) {
      seconds = 0;
      say(words, true);
      button.remove();
    }

    async function fetchFragment() {
      const address = new URL(box.dataset.liveUrl, location);
      if (holds) address.searchParams.set("wait", seconds);
      const answer = await fetch(address, { cache: "no-store", headers: { "If-None-Match": etag } });
      if (isPaused) return;
      if (answer.status === 304) return say("Live", false);
      if (answer.status >= 400 && answer.status < 500) return end("Reload the page to see what has changed");
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      const html = await answer.text();
      if (isPaused) return;
      etag = answer.headers.get("ETag");
      const sent = Number(answer.headers.get("X-Server-Time"));
      if (sent) serverIsAhead = sent * 1000 - Date.now();
      box.dataset.pollSeconds = seconds = showFragment(html);
      if (seconds) say("Live", false);
      else end("This run has ended");
    }

    async function poll() {
      const asked = Date.now(), known = etag;
      try {
        await fetchFragment();
        failures = 0;
      } catch {
        failures += 1;
        say("The server does not answer, trying again", true);
      }
      tick();
      const held = holds && !failures ? (Date.now() - asked) / 1000 : 0;
      plan(holds && known !== etag ? 1 : Math.max(Math.min(seconds * 2 ** failures, 60) - held, 0.1));
    }

    button.addEventListener("click", () => {
      isPaused = !isPaused;
      button.textContent = isPaused ? "Resume updates" : "Pause updates";
      say(isPaused ? "Paused" : "Live", isPaused);
      if (isPaused) clearTimeout(timer);
      else poll();
    });
    document.addEventListener("visibilitychange", () => plan(0));
    for (const part of box.querySelectorAll("[data-live]")) shown.set(part.id, withoutTimes(part.outerHTML));
    plan(holds ? 0 : seconds);
  }

  document.addEventListener("DOMContentLoaded", () => {
    serverIsAhead = Date.parse(document.body.dataset.now) - Date.now();
    for (const box of document.querySelectorAll("[data-from-middle]")) box.scrollLeft = (box.scrollWidth - box.clientWidth) / 2;
    const live = document.querySelector("[data-live-url]");
    if (live && document.querySelector("[data-live-bar]")) follow(live);
    document.addEventListener("click", (event) => {
      const button = event.target.closest("[data-copy]");
      if (button) copy(button);
    });
    setInterval(() => { if (!document.hidden) tick(); }, 1000);
  });
})();
