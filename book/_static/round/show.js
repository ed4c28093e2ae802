/* Draws the round and the packing of a cohort. Their arithmetic is in core.js and packing.js. */
(function () {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  const PHASE = 420; // milliseconds
  let made = 0; // players on the page, for ids

  function element(name, attributes = {}, ...children) {
    const svg = ["svg", "g", "rect", "path", "text", "line", "circle", "title"].includes(name);
    const made = svg ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key === "text") made.textContent = value;
      else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  }

  const list = (numbers) => numbers.length < 2 ? numbers.join("")
    : `${numbers.slice(0, -1).join(", ")} and ${numbers[numbers.length - 1]}`;
  const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

  /* A weight as a colour: blue below zero, orange above. */
  function shade(value) {
    const strength = Math.min(1, Math.abs(value));
    return value < 0 ? `rgba(0, 114, 178, ${strength})` : `rgba(213, 94, 0, ${strength})`;
  }

  /* ---- The round ---- */

  const ARMS = { kept: "with state", forgotten: "without state" };
  const DEFAULT = {
    keeps: true, solves: false, window: 99, cohort: 4,
    rates: { server: 2, client: 0.3, local: 0.2 }, seed: 5,
  };

  class RoundPlayer {
    constructor(host) {
      this.host = host;
      this.short = host.hasAttribute("data-short");
      this.id = `round-${made++}`;
      this.how = structuredClone(DEFAULT);
      this.followed = 0;
      this.playing = false;
      this.build();
      this.restart();
    }

    build() {
      const button = (text, act) => element("button", { type: "button", text, onclick: act });
      this.play = button("Play", () => (this.playing ? this.pause() : this.start()));
      this.one = button("One round", () => this.run(1));
      this.visit = button("Next visit of client 1", () => this.runToVisit());
      this.back = button("Start over", () => this.restart());
      const buttons = [this.play, this.one, this.visit, this.back];
      if (!this.short) {
        buttons.push(button("Other clients", () => { this.how.seed += 1; this.restart(); }));
      }
      this.stage = element("svg", { class: "round-stage", viewBox: "0 0 360 312", role: "img" });
      this.chart = element("svg", { class: "round-chart", viewBox: "0 0 360 200", role: "img" });
      this.said = element("p", { class: "round-said", "aria-live": "polite" });
      this.host.replaceChildren(
        element("div", { class: "round-buttons" }, ...buttons),
        this.controls(),
        element("div", { class: "round-pictures" }, this.stage, this.chart),
        this.said,
      );
      if (!this.short) {
        this.table = element("tbody");
        const head = ["client", "vector", "age in rounds", "ratings held"];
        this.host.append(element("details", { class: "round-numbers" },
          element("summary", { text: "The numbers of every client" }),
          element("table", {},
            element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { text, scope: "col" })))),
            this.table)));
      }
    }

    controls() {
      const box = element("div", { class: "round-controls" });
      const labelled = (text, control, ...more) => {
        control.id = `${this.id}-${box.children.length}`;
        box.append(element("div", {}, element("label", { for: control.id, text }), control, ...more));
        return control;
      };
      const keeps = labelled("Show clients that keep their state", element("input", {
        type: "checkbox", checked: true,
        onchange: () => { this.how.keeps = keeps.checked; this.draw(); },
      }));
      if (this.short) return box;
      const choose = (text, options, act) => {
        const control = labelled(text, element("select", { onchange: () => act(control.value) },
          ...options.map(([value, name]) => element("option", { value, text: name }))));
      };
      const slide = (text, low, high, step, value, act) => {
        const shown = element("output", { text: value });
        const control = labelled(text, element("input", {
          type: "range", min: low, max: high, step, value,
          oninput: () => { shown.textContent = control.value; },
          onchange: () => { act(Number(control.value)); this.restart(); },
        }), shown);
      };
      choose("Without state, a client", [["", "begins from the first vector"], ["solves", "solves for its vector"]],
        (value) => { this.how.solves = value === "solves"; this.restart(); });
      choose("The device keeps", [[99, "all its ratings"], [6, "the newest 6"], [3, "the newest 3"]],
        (value) => { this.how.window = Number(value); this.restart(); });
      choose("Follow", Array.from({ length: 12 }, (_, c) => [c, `client ${c + 1}`]),
        (value) => { this.followed = Number(value); this.draw(); });
      slide("Clients in a round", 1, 12, 1, DEFAULT.cohort, (value) => { this.how.cohort = value; });
      const { rates } = DEFAULT;
      slide("Server's rate", 0.5, 4, 0.5, rates.server, (value) => { this.how.rates.server = value; });
      slide("Rate for the movies", 0.05, 0.5, 0.05, rates.client, (value) => { this.how.rates.client = value; });
      slide("Rate for the own vector", 0.05, 0.5, 0.05, rates.local, (value) => { this.how.rates.local = value; });
      return box;
    }

    /* Both arms start from the same items and see the same cohorts. */
    restart() {
      this.pause();
      const drawn = StatefulRound.world(this.how.seed);
      const arm = (keeps) => new StatefulRound.Population({ ...this.how, keeps }, drawn);
      this.arms = { kept: arm(true), forgotten: arm(false) };
      this.phase = 0;
      this.cohort = [];
      this.draw();
    }

    get shown() {
      return this.how.keeps ? this.arms.kept : this.arms.forgotten;
    }

    get rounds() {
      return this.arms.kept.rounds;
    }

    get over() {
      return this.rounds >= StatefulRound.ROUNDS;
    }

    async start() {
      this.playing = true;
      this.play.textContent = "Pause";
      if (this.over) { this.restart(); this.playing = true; this.play.textContent = "Pause"; }
      while (this.playing && !this.over) {
        await this.round();
        if (calm.matches) await wait(PHASE);
      }
      this.pause();
    }

    pause() {
      this.playing = false;
      this.play.textContent = "Play";
    }

    async run(rounds) {
      this.pause();
      for (let done = 0; done < rounds && !this.over; done++) await this.round();
    }

    /* Goes on to the round in which the followed client takes part. */
    async runToVisit() {
      this.pause();
      const arm = this.arms.kept;
      const before = arm.lastRound[this.followed];
      while (arm === this.arms.kept && !this.over && arm.lastRound[this.followed] === before) {
        const { cohort } = arm.how;
        const here = StatefulRound.cohortOf(this.rounds, arm.clients.length, cohort);
        await this.round(here.includes(this.followed));
      }
    }

    /* Plays a round: message, training, changes, mean. */
    async round(slowly = true) {
      while (this.busy) await wait(20);
      this.busy = true;
      try {
        const arms = this.arms;
        this.cohort = StatefulRound.cohortOf(this.rounds, arms.kept.clients.length, this.how.cohort);
        for (const phase of calm.matches || !slowly ? [] : [1, 2, 3]) {
          this.phase = phase;
          this.draw();
          await wait(PHASE);
          if (arms !== this.arms) return; // started over meanwhile
        }
        for (const arm of Object.values(arms)) arm.next();
        this.phase = 4;
        this.draw();
        if (!calm.matches && slowly) await wait(PHASE);
      } finally {
        this.busy = false;
      }
    }

    draw() {
      this.visit.textContent = `Next visit of client ${this.followed + 1}`;
      this.drawStage();
      this.drawChart();
      this.say();
      if (this.table) this.drawTable();
    }

    drawStage() {
      const { items, clients } = this.shown;
      const parts = [element("text", { x: 180, y: 13, "text-anchor": "middle", text: "server: the movies' vectors" })];
      items.forEach((row, m) => row.forEach((value, k) => parts.push(element("rect", {
        x: 16 + m * (328 / items.length), y: 20 + 13 * k, width: 328 / items.length, height: 13,
        fill: shade(value), class: "round-cell",
      }))));
      clients.forEach((_, c) => parts.push(this.drawClient(c)));
      const moving = { 1: "items", 3: "change" }[this.phase];
      if (moving) for (const c of this.cohort) parts.push(this.drawMessage(c, moving));
      const label = `Round ${this.rounds}. Clients ${ARMS[this.how.keeps ? "kept" : "forgotten"]}: `
        + "the server's vectors above twelve clients with their vectors and ages.";
      this.stage.setAttribute("aria-label", label);
      this.stage.replaceChildren(...parts);
    }

    where(c) {
      return [14 + 84 * (c % 4), 66 + 82 * Math.floor(c / 4)];
    }

    drawClient(c) {
      const [x, y] = this.where(c);
      const arm = this.shown;
      const taking = this.cohort.includes(c) && this.phase > 0;
      const kept = arm.states[c];
      const age = arm.age(c);
      const classes = ["round-client", taking && "taking", taking && this.phase === 2 && "training",
        c === this.followed && "followed"];
      const group = element("g", { class: classes.filter(Boolean).join(" ") },
        element("rect", { x, y, width: 80, height: 76, rx: 5 }),
        element("text", { x: x + 6, y: y + 14, text: `client ${c + 1}` }));
      const vector = kept || (taking && this.phase === 2 ? arm.vector(c) : null);
      for (let k = 0; k < 2; k++) {
        group.append(element("rect", {
          x: x + 6 + 18 * k, y: y + 20, width: 18, height: 18,
          fill: vector ? shade(vector[k]) : "none", class: kept ? "round-cell" : "round-nothing",
        }));
      }
      const state = { 1: "", 2: "trains", 3: "" }[taking ? this.phase : 0];
      group.append(element("text", { x: x + 47, y: y + 33, class: "round-small", text: state || "" }));
      const rated = arm.clients[c].train;
      const arrived = StatefulRound.held(arm.clients[c], arm.rounds, 99).length;
      const holds = arm.held(c).length;
      rated.forEach((_, n) => {
        const held = n < arrived && n >= arrived - holds;
        if (n < arrived) {
          group.append(element("circle", { cx: x + 9 + 7.6 * (n % 9), cy: y + 46 + 7 * Math.floor(n / 9), r: 2.4,
            class: held ? "round-held" : "round-dropped" }));
        }
      });
      const text = age === null ? "never here" : !this.how.keeps ? "forgotten" : `age ${age}`;
      group.append(element("text", { x: x + 6, y: y + 70, class: "round-small", text }));
      return group;
    }

    drawMessage(c, what) {
      const [x, y] = this.where(c);
      const line = element("line", { x1: 180, y1: 48, x2: x + 40, y2: y, class: `round-line ${what}` });
      return line;
    }

    drawChart() {
      const [left, right, top, bottom, high] = [34, 350, 12, 168, 1.5];
      const x = (round) => left + (right - left) * (round / StatefulRound.ROUNDS);
      const y = (value) => bottom - (bottom - top) * (Math.min(value, high) / high);
      const parts = [];
      for (const value of [0, 0.5, 1, 1.5]) {
        parts.push(element("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "round-grid" }),
          element("text", { x: left - 5, y: y(value) + 4, "text-anchor": "end", class: "round-small", text: value.toFixed(1) }));
      }
      for (const round of [0, 20, 40, 60]) {
        parts.push(element("text", { x: x(round), y: bottom + 14, "text-anchor": "middle", class: "round-small", text: round }));
      }
      parts.push(
        element("text", { x: (left + right) / 2, y: 196, "text-anchor": "middle", class: "round-small", text: "round" }),
        element("text", { x: left, y: 9, class: "round-small", text: "error of all clients on unseen ratings, stars" }));
      for (const [name, arm] of Object.entries(this.arms)) {
        const path = arm.errors.map((value, r) => `${r ? "L" : "M"}${x(r).toFixed(1)} ${y(value).toFixed(1)}`).join("");
        const row = name === "kept" ? 0 : 1;
        parts.push(element("path", { d: path, class: `round-error ${name}` }),
          element("line", { x1: 44, x2: 66, y1: 140 + 15 * row, y2: 140 + 15 * row, class: `round-error ${name}` }),
          element("text", { x: 72, y: 144 + 15 * row, class: "round-small",
            text: `${ARMS[name]} ${arm.errors[arm.rounds].toFixed(3)}` }));
      }
      this.chart.setAttribute("aria-label", `Error over ${this.rounds} rounds: ${this.inWords()}.`);
      this.chart.replaceChildren(...parts);
    }

    inWords() {
      return Object.entries(this.arms)
        .map(([name, arm]) => `${ARMS[name]} ${arm.errors[arm.rounds].toFixed(3)} stars`).join(", ");
    }

    say() {
      const who = this.shown.cohort.map((c) => c + 1);
      const steps = {
        1: `The server sends the movies' vectors to clients ${list(this.cohort.map((c) => c + 1))}.`,
        2: "Each of them trains on its own ratings.",
        3: this.how.keeps ? "Changes of the movies go up. Each client keeps its own vector."
          : "Changes of the movies go up. The clients' own vectors are thrown away.",
      };
      const done = this.rounds
        ? `Round ${this.rounds}: client${who.length > 1 ? "s" : ""} ${list(who)} took part. Error ${this.inWords()}.`
        : `Nobody has trained yet. Error ${this.inWords()}.`;
      // Announced once a round, and not in every phase of it.
      this.said.setAttribute("aria-live", steps[this.phase] ? "off" : "polite");
      this.said.textContent = steps[this.phase] || done;
    }

    drawTable() {
      const arm = this.shown;
      this.table.replaceChildren(...arm.clients.map((_, c) => {
        const vector = arm.states[c] ? arm.states[c].map((x) => x.toFixed(2)).join(", ") : "nothing kept";
        const cells = [c + 1, vector, arm.age(c) ?? "never here", arm.held(c).length];
        return element("tr", {}, ...cells.map((text) => element("td", { text })));
      }));
    }
  }

  /* ---- The packing of a cohort ---- */

  const LENGTHS = [[3, 1, 2], [5, 1, 2, 1, 3, 1, 2, 4], [9, 1, 2, 1, 3, 1, 2, 4, 1, 2, 6, 1, 1, 3, 2, 1]];
  const HUES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
  const NAMES = { padded: "one rectangle", packed: "packed", blocks: "blocks of four" };

  class PackingPlayer {
    constructor(host) {
      this.host = host;
      this.way = "padded";
      this.batches = LENGTHS[1];
      const choose = (id, text, options, act) => {
        const control = element("select", { id, onchange: () => { act(control.value); this.restart(); } },
          ...options.map(([value, name]) => element("option", { value, text: name })));
        return element("div", {}, element("label", { for: id, text }), control);
      };
      this.play = element("button", { type: "button", text: "Play", onclick: () => this.toggle() });
      this.one = element("button", { type: "button", text: "One step", onclick: () => this.step() });
      this.picture = element("svg", { class: "round-chart", role: "img" });
      this.said = element("p", { class: "round-said", "aria-live": "polite" });
      host.replaceChildren(
        element("div", { class: "round-buttons" }, this.play, this.one),
        element("div", { class: "round-controls" },
          choose("packing-clients", "Clients", LENGTHS.map((l, i) => [i, l.length]), (i) => { this.batches = LENGTHS[i]; }),
          choose("packing-way", "Layout", Object.entries(NAMES), (way) => { this.way = way; })),
        this.picture, this.said);
      host.querySelector("#packing-clients").value = 1;
      this.restart();
    }

    restart() {
      this.done = 0;
      this.playing = false;
      this.plan = CohortPacking.layout(this.batches, this.way);
      this.draw();
    }

    async toggle() {
      this.playing = !this.playing;
      if (this.playing && this.done === this.plan.steps.length) { this.restart(); this.playing = true; }
      const { plan } = this;
      this.draw();
      while (this.playing && plan === this.plan && this.done < plan.steps.length) {
        await wait(PHASE);
        if (this.playing && plan === this.plan) this.step();
      }
      this.playing = false;
      this.draw();
    }

    step() {
      if (this.done < this.plan.steps.length) this.done += 1;
      this.draw();
    }

    draw() {
      const { clients, steps } = this.plan;
      const [width, height] = [340 / clients.length, 18];
      const rows = Math.max(...this.batches);
      const parts = [];
      steps.forEach((places, s) => places.forEach(({ client, batch, real }) => {
        const now = s === this.done - 1;
        parts.push(element("rect", {
          x: 10 + width * clients.indexOf(client), y: 10 + (height + 3) * batch,
          width: width - 3, height, rx: 2, fill: real ? HUES[client % HUES.length] : "none",
          class: ["round-batch", real || "empty", now && "now", s < this.done && "done"].filter((c) => c && c !== true).join(" "),
        }));
      }));
      this.picture.setAttribute("viewBox", `0 0 360 ${16 + (height + 3) * rows}`);
      const { steps: count, places, empty } = CohortPacking.figures(this.plan);
      const text = `${NAMES[this.way]}: ${count} steps, ${places} places for batches, ${Math.round(100 * empty)}% of them empty`;
      this.picture.setAttribute("aria-label", `Batches of ${clients.length} clients, ${text}.`);
      this.picture.replaceChildren(...parts);
      const now = this.done ? steps[this.done - 1].filter((place) => place.real).length : 0;
      this.said.textContent = `${text[0].toUpperCase()}${text.slice(1)}.`
        + (this.done ? ` Step ${this.done} works on ${now} batch${now === 1 ? "" : "es"} at once.` : "");
      this.play.textContent = this.playing ? "Pause" : "Play";
    }
  }

  function begin() {
    for (const host of document.querySelectorAll(".round-player")) host.player = new RoundPlayer(host);
    for (const host of document.querySelectorAll(".packing-player")) host.player = new PackingPlayer(host);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
