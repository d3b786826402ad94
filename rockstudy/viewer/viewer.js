// The token viewer: unpacks the rollouts that are shown, colours their tokens, and tells about one.
// All text of models becomes text nodes. Without a rollout selected nothing is unpacked.
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const D = JSON.parse($("data").textContent);
  const CHUNK = 600; // tokens that are laid out before the browser may paint
  const WORDS = { " ": "space", "\n": "line break", "\t": "tab" };

  // --- elements -----------------------------------------------------------------------------------
  const make = (tag, given = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(given)) {
      if (name === "class") made.className = value;
      else if (name in made) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };
  const option = (value, text) => make("option", { value }, text);

  // --- numbers and texts --------------------------------------------------------------------------
  const number = (x) => {
    if (x === null || x === undefined || Number.isNaN(x)) return "\u2013";
    const size = Math.abs(x);
    if (size === 0) return "0";
    if (size < 0.0005) return (x < 0 ? "> \u2212" : "< ") + "0.0005";
    const text = size >= 100 ? size.toFixed(0) : size >= 10 ? size.toFixed(1) : size.toFixed(3);
    return (x < 0 ? "\u2212" : "") + text;
  };
  const percent = (p) => p > 0.9995 ? "100%" : p >= 0.0995 ? `${(100 * p).toFixed(0)}%` :
    p >= 0.0005 ? `${(100 * p).toFixed(1)}%` : "<0.1%";
  const spelled = (text) => text.replace(/ /g, "\u2423").replace(/\n/g, "\u23ce").replace(/\t/g, "\u21e5");
  const graded = (one) => one.right === null ? "not graded" : one.right ? "right" : "wrong";
  const named = (one) => {
    const sample = D.rollouts.some((other) => other.sample > 0) ? `.${one.sample}` : "";
    const grade = one.right === null ? "" : `, ${graded(one)}`;
    return `prompt ${one.prompt}${sample}${grade}, ${number(one.loss_post)} nats`;
  };

  // --- what is packed -----------------------------------------------------------------------------
  const HALF = new Float32Array(65536);
  for (let i = 0; i < 65536; i++) {
    const exponent = (i >> 10) & 31, rest = i & 1023, sign = i & 32768 ? -1 : 1;
    HALF[i] = sign * (exponent ? 2 ** (exponent - 15) * (1 + rest / 1024) : 2 ** -14 * rest / 1024);
  }
  const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f2: Float32Array };
  const bytes = async (packed) => {
    const raw = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([raw]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  };
  const cut = (buffer, kinds, n) => { // arrays one after another, each by planes of its bytes
    const all = new Uint8Array(buffer);
    let at = 0;
    return kinds.map(([kind, width]) => {
      const length = n * width, size = Number(kind[1]), found = new ARRAYS[kind](length);
      for (let i = 0; i < length; i++) {
        let value = 0;
        for (let plane = size - 1; plane >= 0; plane--) value = value * 256 + all[at + plane * length + i];
        found[i] = kind === "f2" ? HALF[value] : value;
      }
      at += length * size;
      return found;
    });
  };
  const kept = new Map();
  const once = (key, compute) => {
    if (!kept.has(key)) kept.set(key, compute());
    return kept.get(key);
  };
  const idsOf = (r) => once(`t${r}`, async () =>
    cut(await bytes(D.rollouts[r].t), [[D.index, 1]], D.rollouts[r].n)[0]);
  const valuesOf = (r) => once(`m${r}`, async () => {
    const found = cut(await bytes(D.rollouts[r].m), D.columns.map(([, kind]) => [kind, 1]), D.rollouts[r].n);
    return Object.fromEntries(D.columns.map(([name], i) => [name, found[i]]));
  });
  const topOf = (r) => once(`k${r}`, async () => {
    const width = D.top * D.models.length;
    const [ids, p] = cut(await bytes(D.rollouts[r].k), [[D.index, width], ["f2", width]], D.rollouts[r].n);
    return { ids, p };
  });
  const textsOf = (r) => once(`x${r}`, async () => { // the whole text, and where its tokens start
    const starts = [];
    let whole = "";
    for (const i of await idsOf(r)) {
      starts.push(whole.length);
      whole += D.types.text[i];
    }
    return { starts, whole, small: whole.toLowerCase() };
  });

  // --- colours ------------------------------------------------------------------------------------
  const byKey = Object.fromEntries(D.measures.map((one) => [one.key, one]));
  const STEPS = 7;
  const colour = (measure, value) => {
    if (measure.kind === "cause") return `k${D.causes[value][1].slice(1)}`;
    if (measure.kind === "weight") return `s${Math.round(STEPS * (1 - Math.min(1, Math.max(0, value))))}`;
    const size = Math.abs(value);
    let step = 0;
    while (step < measure.edges.length && size >= measure.edges[step]) step++;
    return measure.kind === "size" ? `s${step}` : `d${measure.edges.length + (value < 0 ? -step : step)}`;
  };
  const swatches = (measure) => {
    const scale = make("div", { class: `scale ${measure.hue}` });
    const add = (kind, text) => {
      const one = make("div", { class: kind });
      if (text !== null) one.append(make("span", {}, text));
      scale.append(one);
    };
    const short = (x) => String(x).replace(/^(-?)0\./, "$1.").replace("-", "\u2212");
    if (measure.kind === "size") [0, ...measure.edges].forEach((edge, i) => add(`s${i}`, short(edge)));
    else if (measure.kind === "signed") {
      const ends = measure.edges.map(short), n = ends.length;
      for (let i = -n; i <= n; i++)
        add(`d${n + i}`, i > 0 ? ends[i - 1] : i > -n ? `\u2212${ends[-i]}` : null);
    } else for (const [i, text] of [[0, "1"], [STEPS, "0"]]) add(`s${i}`, text);
    return scale;
  };
  const legendOf = (measure) => {
    const unit = measure.unit ? ` (${measure.unit})` : "";
    const about = make("span", {}, make("span", { class: "name" }, measure.label + unit), make("span", { class: "note" }, measure.note));
    const names = () => make("div", { class: "names" }, ...D.causes.map(([name, tone]) =>
      make("span", { class: `k${tone.slice(1)}` }, name)));
    return [about, measure.kind === "cause" ? names() : swatches(measure)];
  };

  // --- what is followed ---------------------------------------------------------------------------
  let followed = null; // {name, places: rollout -> positions}
  const ofType = (type) => ({
    name: spelled(D.types.text[type]),
    type,
    places: async (r) => {
      const found = [];
      (await idsOf(r)).forEach((one, t) => { if (one === type) found.push(t); });
      return found;
    },
  });
  const ofText = (query) => {
    const exact = query !== query.toLowerCase();
    return {
      name: query,
      places: async (r) => {
        const { starts, whole, small } = await textsOf(r);
        const hay = exact ? whole : small, found = [];
        let token = 0;
        for (let at = hay.indexOf(query); at >= 0; at = hay.indexOf(query, at + 1)) {
          while (token + 1 < starts.length && starts[token + 1] <= at) token++;
          if (found.at(-1) !== token) found.push(token);
        }
        return found;
      },
    };
  };
  const placesOf = async (r) => {
    if (!followed) return [];
    const mine = followed;
    mine.known ??= new Map();
    if (!mine.known.has(r)) mine.known.set(r, await mine.places(r));
    return mine.known.get(r);
  };

  // --- a pane -------------------------------------------------------------------------------------
  let active = null; // the pane whose token is told about
  class Pane {
    constructor(letter) {
      this.letter = letter;
      this.r = -1;
      this.t = -1;
      this.spans = [];
      this.rollout = make("select", { class: "rollout", "aria-label": "Rollout" });
      this.back = make("button", { type: "button", "aria-label": "Previous rollout", title: "Previous rollout ([)" }, "\u2039");
      this.on = make("button", { type: "button", "aria-label": "Next rollout", title: "Next rollout (])" }, "\u203a");
      this.measure = make("select", { class: "measure", "aria-label": "Colour by" });
      this.stats = make("p", { class: "stats" });
      this.worst = make("div", { class: "worst", role: "group", "aria-label": "Worst tokens" });
      this.prompt = make("div", { class: "prompt", tabIndex: 0, role: "region", "aria-label": "Prompt" });
      this.legend = make("div", { class: "legend" });
      this.text = make("div", {
        class: "text", id: `text-${letter}`, tabIndex: 0, role: "listbox", "aria-label": "Tokens of the completion",
        "aria-describedby": "keys",
      });
      const turn = make("span", { class: "group" }, this.back, this.on);
      const head = make("div", { class: "head" }, this.rollout, turn, make("label", {}, make("span", {}, "colour"), this.measure));
      this.root = make("section", { class: "pane", "aria-label": `Rollout ${letter.toUpperCase()}` },
        head, this.stats, this.worst, this.prompt, this.legend, this.text);
      const groups = [...new Set(D.measures.map((one) => one.group))];
      this.measure.append(...groups.map((group) => {
        const made = make("optgroup", { label: group });
        made.append(...D.measures.filter((one) => one.group === group).map((one) => option(one.key, one.label)));
        return made;
      }));
      this.rollout.addEventListener("change", () => this.open(Number(this.rollout.value)));
      this.measure.addEventListener("change", () => this.recolour());
      this.back.addEventListener("click", () => this.turn(-1));
      this.on.addEventListener("click", () => this.turn(1));
      const at = (event) => {
        const span = event.target.closest("span[data-t]");
        return span ? Number(span.dataset.t) : -1;
      };
      this.text.addEventListener("pointerover", (event) => {
        if (event.pointerType !== "touch" && at(event) >= 0) tell(this, at(event));
      });
      this.text.addEventListener("pointerleave", () => active && active.t >= 0 && tell(active, active.t));
      this.text.addEventListener("click", (event) => at(event) >= 0 && this.select(at(event)));
      this.text.addEventListener("focus", () => {
        if (this.t < 0 && this.spans.length) this.select(0, { say: true });
      });
      this.text.addEventListener("keydown", (event) => this.key(event));
    }

    get one() { return D.rollouts[this.r]; }
    get shownMeasure() { return byKey[this.measure.value]; }

    list() { // the rollouts that may be chosen
      this.rollout.replaceChildren(...listed().map((r) => option(r, named(D.rollouts[r]))));
      if (this.r >= 0) this.rollout.value = this.r;
    }

    turn(step) {
      const all = listed();
      const place = all.indexOf(this.r);
      return this.open(all[(place + step + all.length) % all.length]);
    }

    async open(r, t = -1) {
      if (r === undefined) return;
      const ticket = this.ticket = {};
      const [ids, values] = await Promise.all([idsOf(r), valuesOf(r)]);
      if (ticket !== this.ticket) return; // another rollout was asked for since
      this.r = r;
      this.t = -1;
      this.ids = ids;
      this.values = values;
      this.rollout.value = r;
      this.describe();
      this.text.removeAttribute("aria-activedescendant");
      this.spans = [];
      this.text.replaceChildren();
      this.legendFor();
      this.layOut(CHUNK);
      if (t >= 0) this.select(t);
      const rest = () => {
        if (ticket !== this.ticket || this.spans.length === this.one.n) return;
        this.layOut(this.spans.length + CHUNK);
        requestAnimationFrame(rest);
      };
      if (this.spans.length < this.one.n) requestAnimationFrame(rest);
      await this.mark();
      twins();
    }

    describe() {
      const one = this.one;
      const grade = one.right === null ? [] : [make("span", { class: graded(one) }, graded(one)), " \u00b7 "];
      const cutOff = one.stopped ? "" : ", cut at the limit";
      const share = (x) => `${(100 * x).toFixed(0)}%`;
      this.stats.replaceChildren(
        ...grade, `${one.n} tokens${cutOff} \u00b7 mean reverse KL `, make("b", {}, number(one.loss_pre)), " before, ",
        make("b", {}, number(one.loss_post)), " after (nats) \u00b7 the ", `${one.worst_post.length} worst tokens hold `,
        make("b", { class: "share" }, share(one.share_post)), ` of the loss after (${share(one.share_pre)} before)`);
      this.worst.replaceChildren("worst after:", ...one.worst_post.map((t) => {
        const text = spelled(D.types.text[this.ids[t]]);
        const made = make("button", { type: "button", title: "Go to this token" },
          make("code", {}, text), ` ${number(this.values.rkl_post[t])}`);
        made.addEventListener("click", () => this.select(t, { scroll: true }));
        return made;
      }));
      this.prompt.textContent = D.prompts[one.asked];
    }

    layOut(until) { // tokens up to a place, as text
      const part = document.createDocumentFragment(), measure = this.shownMeasure;
      const column = this.values[measure.key], flags = this.values.flags;
      for (let t = this.spans.length; t < Math.min(until, this.one.n); t++) {
        const text = D.types.text[this.ids[t]];
        const lead = /^ (?=[^ \n])/.test(text) ? " " : "";
        const tail = /\n*$/.exec(text)[0];
        const middle = text.slice(lead.length, text.length - tail.length);
        const core = middle.replace(/\n/g, "\u23ce\n").replace(/\t/g, "\u21e5\t") + "\u23ce".repeat(tail.length);
        const span = make("span", { role: "option", id: `${this.letter}${t}`, "aria-selected": "false" });
        span.dataset.t = t;
        const body = document.createElement("b");
        body.textContent = core || "\u2205";
        span.append(lead, body, tail.length === 1 ? tail : "");
        if (tail.length > 1) {
          const gap = make("i", { class: "gap" });
          gap.style.height = `${0.6 * (tail.length - 1)}em`;
          span.append(gap);
        }
        const f = flags[t];
        span.fixed = (f & 1 ? " rock" : "") + (f & 2 ? " stay" : "") + (/\S/.test(middle) ? "" : " mark");
        if (!/\S/.test(text)) span.setAttribute("aria-label", [...text].map((c) => WORDS[c]).join(", ") || "empty");
        span.className = colour(measure, column[t]) + span.fixed;
        this.spans.push(span);
        part.append(span);
      }
      this.text.append(part);
    }

    recolour() {
      const measure = this.shownMeasure, column = this.values[measure.key];
      this.spans.forEach((span, t) => { span.className = colour(measure, column[t]) + span.fixed + (span.hit || ""); });
      this.legendFor();
      twins();
    }

    legendFor() {
      const measure = this.shownMeasure;
      this.text.className = `text ${measure.hue}`;
      const marks = make("div", { class: "marks" },
        make("span", {}, make("b", { class: "rock" }, "token"), "a rock, by type"),
        make("span", {}, make("b", { class: "stay" }, "token"), "persistent: loss high before and after"));
      this.legend.replaceChildren(...legendOf(measure), marks);
    }

    async mark() { // the occurrences of what is followed
      const r = this.r, there = new Set(await placesOf(r));
      if (r !== this.r) return;
      const all = this.spans.length < this.one.n && there.size;
      if (all) this.layOut(this.one.n);
      this.spans.forEach((span, t) => {
        span.hit = there.has(t) ? " hit" : "";
        span.classList.toggle("hit", there.has(t));
      });
    }

    select(t, { scroll = false, say = false } = {}) {
      if (t >= this.spans.length) this.layOut(t + CHUNK);
      const span = this.spans[t];
      if (!span) return;
      clearSelection();
      this.t = t;
      active = this;
      span.setAttribute("aria-selected", "true");
      this.text.setAttribute("aria-activedescendant", span.id);
      document.body.classList.add("open"); // which makes room for the sheet
      if (scroll || say || narrow()) {
        const box = span.getBoundingClientRect(), sheet = narrow() ? innerHeight / 2 : innerHeight;
        if (box.top < 60 || box.bottom > sheet - 60) span.scrollIntoView({
          block: narrow() ? "start" : "center",
          behavior: matchMedia("(prefers-reduced-motion: no-preference)").matches ? "smooth" : "auto",
        });
      }
      tell(this, t, say || scroll);
      twins();
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const last = this.one.n - 1, t = Math.max(this.t, 0);
      const moves = {
        ArrowRight: () => Math.min(t + 1, last), ArrowLeft: () => Math.max(t - 1, 0), Home: () => 0, End: () => last,
        ArrowDown: () => this.line(t, 1), ArrowUp: () => this.line(t, -1),
      };
      if (!(event.key in moves)) return;
      event.preventDefault();
      this.select(moves[event.key](), { say: true });
    }

    line(t, way) { // the token below or above
      const box = (i) => this.spans[i].querySelector("b").getClientRects()[0];
      const from = box(t);
      let best = t, nearest = Infinity, row = null;
      for (let i = t + way; i >= 0 && i < this.spans.length; i += way) {
        const to = box(i);
        if (!to || Math.abs(to.top - from.top) < from.height * 0.7) continue;
        row ??= to.top;
        if (Math.abs(to.top - row) > from.height * 0.7) break;
        const far = Math.abs(to.left + to.width / 2 - from.left - from.width / 2);
        if (far < nearest) [best, nearest] = [i, far];
      }
      return best;
    }
  }

  // --- about one token ----------------------------------------------------------------------------
  const narrow = () => matchMedia("(max-width: 54rem)").matches;
  let telling = null;
  const tell = async (pane, t, say = false) => {
    const ticket = telling = {};
    const r = pane.r, type = pane.ids[t], values = pane.values;
    const top = await topOf(r);
    if (ticket !== telling) return;
    const text = D.types.text[type], f = values.flags[t];
    const code = D.types.bytes[type], hex = code === null ? "unknown" : code;
    const what = make("p", { class: "what" }, `id ${D.types.id[type]} \u00b7 bytes `, make("code", {}, hex),
      ` \u00b7 token ${t + 1} of ${pane.one.n}`);
    if (D.types.count[type]) {
      const plural = D.types.count[type] === 1 ? "occurrence" : "occurrences";
      what.append(make("br"), `${D.types.count[type]} ${plural} in all rollouts, mean ${number(D.types.loss[type])} nats`);
    }
    const tags = make("p", { class: "tags" });
    if (f & 1) tags.append(make("span", { class: "rocky" }, `rock, rank ${D.types.rank[type]}`));
    if (f & 2) tags.append(make("span", {}, f & 4 ? "persistent, in a context that repeats" : "persistent"));
    if (values.cause) tags.append(make("span", {}, `cause: ${D.causes[values.cause[t]][0]}`));
    const rows = [["reverse KL", "rkl"], ["log-ratio", "log_ratio"], ["entropy", "entropy"]];
    const table = make("table", {},
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "in nats"),
        ...[...D.students.map(([, name]) => name), "teacher"].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows.map(([name, key]) => make("tr", {}, make("th", { scope: "row" }, name),
        ...D.students.map(([student]) => make("td", {}, number(values[`${key}_${student}`][t]))),
        make("td", {}, key === "entropy" ? number(values.entropy_teacher[t]) : "")))));
    const rest = make("table", {}, make("tbody", {},
      ...[["change of reverse KL", `${number(values.rkl_change[t])} nats`],
        ["tokens that the teacher finds likelier", String(values.rank_teacher[t])],
        ...D.columns.filter(([name]) => name.startsWith("weight ")).map(([name]) =>
          [`weight in ${name.slice(7)}`, number(values[name][t])])].map(([name, value]) =>
        make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)))));
    const tops = make("div", { class: "tops" }, ...D.models.map(([, name], m) => {
      const from = (t * D.models.length + m) * D.top, items = [];
      for (let i = from; i < from + D.top; i++) {
        const bar = make("i");
        bar.style.width = `${100 * top.p[i]}%`;
        items.push(make("li", { class: top.ids[i] === type ? "written" : "" }, bar,
          make("code", {}, spelled(D.types.text[top.ids[i]])), make("span", {}, percent(top.p[i]))));
      }
      const there = items.some((item) => item.className);
      return make("section", {}, make("h3", {}, name.replace("the ", "")), make("ol", {}, ...items),
        ...(there ? [] : [make("p", { class: "none" }, "what was written is not among its five")]));
    }));
    const close = make("button", { type: "button", id: "close", "aria-label": "Close" }, "\u00d7");
    close.addEventListener("click", () => { clearSelection(); $("token").hidden = true; });
    const side = $("token");
    side.replaceChildren(make("h2", {}, spelled(text) || "\u2205"), close, what, tags, tops, table, rest);
    side.hidden = false;
    if (!say) return;
    const first = (m) => {
      const i = (t * D.models.length + m) * D.top;
      return `${D.models[m][1]}: ${spelled(D.types.text[top.ids[i]])} ${percent(top.p[i])}`;
    };
    $("live").textContent = `${spelled(text)}${f & 1 ? ", rock" : ""}${f & 2 ? ", persistent" : ""}. Reverse KL ` +
      `${number(values.rkl_pre[t])} before, ${number(values.rkl_post[t])} after. ` +
      `Likeliest for ${D.models.map((_, m) => first(m)).join("; ")}.`;
  };
  const clearSelection = () => {
    for (const pane of panes) {
      if (pane.t >= 0) pane.spans[pane.t]?.setAttribute("aria-selected", "false");
      pane.text.removeAttribute("aria-activedescendant");
      pane.t = -1;
    }
    document.body.classList.remove("open");
    twins();
  };
  const twins = () => { // the same token of the same rollout in the other pane
    for (const pane of panes) {
      pane.text.querySelectorAll(".twin").forEach((span) => span.classList.remove("twin"));
      if (active && pane !== active && panes.includes(active) && pane.r === active.r && active.t >= 0)
        pane.spans[active.t]?.classList.add("twin");
    }
  };

  // --- the tools ----------------------------------------------------------------------------------
  const ORDERS = {
    prompt: ["by prompt", (a, b) => a.prompt - b.prompt || a.sample - b.sample],
    after: ["by loss after, most first", (a, b) => b.loss_post - a.loss_post],
    before: ["by loss before, most first", (a, b) => b.loss_pre - a.loss_pre],
    fall: ["by fall of the loss", (a, b) => b.loss_pre - b.loss_post - a.loss_pre + a.loss_post],
    worst: ["by share of the worst tokens", (a, b) => b.share_post - a.share_post],
    length: ["by length", (a, b) => b.n - a.n],
  };
  let grade = "all";
  const listed = () => [...D.rollouts.keys()]
    .filter((r) => grade === "all" || graded(D.rollouts[r]) === grade)
    .sort((a, b) => ORDERS[$("order").value][1](D.rollouts[a], D.rollouts[b]));
  const panes = [new Pane("a")];

  const relist = () => {
    panes.forEach((pane) => pane.list());
    const all = listed();
    panes.forEach((pane) => { if (!all.includes(pane.r)) pane.open(all[0]); });
    count();
  };
  const grades = [...new Set(["all", ...D.rollouts.map(graded).sort()])];
  if (grades.length > 2) $("grades").append(...grades.map((name) => {
    const n = D.rollouts.filter((one) => name === "all" || graded(one) === name).length;
    const made = make("button", { type: "button", "aria-pressed": String(name === grade) }, `${name} ${n}`);
    made.addEventListener("click", () => {
      grade = name;
      for (const other of $("grades").children) other.setAttribute("aria-pressed", String(other === made));
      relist();
    });
    return made;
  }));
  $("order").append(...Object.entries(ORDERS).map(([value, [text]]) => option(value, text)));
  $("order").addEventListener("change", relist);

  const count = async () => { // how often what is followed occurs, as far as that is known quickly
    if (!followed) return void ($("found").textContent = "");
    const mine = followed;
    let n = 0, of = 0;
    for (const r of listed()) {
      const some = (await placesOf(r)).length;
      if (mine !== followed) return;
      n += some;
      of += some > 0;
    }
    $("found").textContent = n ? `${n} in ${of} of ${listed().length} rollouts` : "no occurrence";
  };
  const follow = async (what) => {
    followed = what;
    $("follow").value = what && "type" in what && [...$("follow").options].some((one) => one.value === String(what.type))
      ? String(what.type) : "";
    await Promise.all(panes.map((pane) => pane.mark()));
    return count();
  };
  const step = async (way) => { // to the next occurrence, over the end of a rollout
    const pane = active && panes.includes(active) ? active : panes[0];
    if (!followed) {
      if (pane.t < 0) return say("Choose a token, or follow a type, first.");
      await follow(ofType(pane.ids[pane.t]));
    }
    const all = listed(), place = Math.max(all.indexOf(pane.r), 0);
    for (let i = 0; i <= all.length; i++) {
      const r = all[(place + way * i + all.length * (i + 1)) % all.length];
      let there = await placesOf(r);
      if (i === 0 && pane.t >= 0) there = there.filter((t) => way * (t - pane.t) > 0);
      if (i === 0 && pane.r !== r) there = [];
      if (!there.length) continue;
      const t = way > 0 ? there[0] : there.at(-1);
      if (r !== pane.r) await pane.open(r);
      pane.select(t, { scroll: true, say: true });
      return;
    }
    say(`No occurrence of ${followed.name} in these rollouts.`);
  };
  const say = (text) => { $("live").textContent = text; $("found").textContent = text; };
  $("next").addEventListener("click", () => step(1));
  $("previous").addEventListener("click", () => step(-1));
  $("follow").append(option("", "follow a rock \u2026"), ...D.rocks.map(([type, n]) =>
    option(type, `${D.types.rank[type]}. ${spelled(D.types.text[type])} (${n})`)));
  $("follow").disabled = !D.rocks.length;
  $("follow").addEventListener("change", async () => {
    $("search").value = "";
    await follow($("follow").value === "" ? null : ofType(Number($("follow").value)));
    if (followed) step(1);
  });
  $("search").addEventListener("keydown", async (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    const query = $("search").value;
    if (followed?.name !== query || "type" in followed) await follow(query ? ofText(query) : null);
    if (query) step(event.shiftKey ? -1 : 1);
  });
  $("search").addEventListener("search", () => { if (!$("search").value) follow(null); });

  const OTHER = { rkl_post: "rkl_pre", log_ratio_post: "log_ratio_pre", entropy_post: "entropy_pre" };
  $("compare").addEventListener("click", async () => {
    const two = panes.length === 1;
    if (two) {
      const pane = new Pane("b");
      panes.push(pane);
      pane.list();
      const first = panes[0].measure.value;
      pane.measure.value = OTHER[first] || (first === "rkl_post" ? "rkl_pre" : "rkl_post");
      $("panes").append(pane.root);
      await pane.open(panes[0].r);
    } else {
      const gone = panes.pop();
      if (active === gone) { active = panes[0]; $("token").hidden = true; }
      gone.root.remove();
    }
    $("panes").classList.toggle("two", two);
    $("compare").setAttribute("aria-pressed", String(two));
  });

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "Escape") {
      clearSelection();
      $("token").hidden = true;
      $("search").value = "";
      follow(null);
      if (typing) panes[0].text.focus();
      return;
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const pane = active && panes.includes(active) ? active : panes[0];
    const does = {
      n: () => step(1), p: () => step(-1), "/": () => $("search").focus(),
      "[": () => pane.turn(-1), "]": () => pane.turn(1), c: () => $("compare").click(),
    }[event.key];
    if (!does) return;
    event.preventDefault();
    does();
  });

  // --- start --------------------------------------------------------------------------------------
  $("title").textContent = D.title;
  const few = D.of > D.rollouts.length ? `${D.rollouts.length} of ${D.of} rollouts` : `${D.of} rollouts`;
  $("about").textContent = [few, ...D.about.map(([name, value]) => `${name}: ${value}`)].join(" \u00b7 ");
  const keys = [["\u2190 \u2192 \u2191 \u2193", "tokens"], ["n p", "next, previous occurrence"], ["[ ]", "rollouts"],
    ["/", "find"], ["c", "side by side"], ["Esc", "clear"]];
  $("keys").append(...keys.flatMap(([key, text]) => [make("kbd", {}, key), ` ${text}   `]));
  $("panes").append(panes[0].root);
  panes[0].list();
  const start = async () => {
    await panes[0].open(listed()[0]);
    if (!narrow()) tell(panes[0], panes[0].one.worst_post[0]);
    document.documentElement.dataset.ready = "yes";
  };
  if (typeof DecompressionStream === "undefined") $("about").textContent = "This browser is too old for the token viewer.";
  else start();
})();
