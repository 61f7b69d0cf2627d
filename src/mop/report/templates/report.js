"use strict";
// Text from data reaches the page through textContent only; nothing here builds markup from strings.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) { node.textContent = text; node.dir = "auto"; }
    return node;
  };

  // Colours: as the system, light, dark.
  const themes = ["auto", "light", "dark"];
  const recall = () => { try { return localStorage.getItem("mop-theme"); } catch { return null; } };
  const show = (theme) => {
    document.documentElement.dataset.theme = theme;
    const word = theme[0].toUpperCase() + theme.slice(1);
    at("theme").lastElementChild.textContent = word;
    at("theme").setAttribute("aria-label", `Colours: ${theme === "auto" ? "as the system" : theme}; change`);
  };
  let theme = themes.includes(recall()) ? recall() : "auto";
  show(theme);
  at("theme").hidden = false;
  at("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    try { localStorage.setItem("mop-theme", theme); } catch { /* a page without storage keeps it until closed */ }
    show(theme);
  });

  // Contents: mark the section being read.
  const links = new Map([...document.querySelectorAll(".contents li a")].map((a) => [a.hash.slice(1), a]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((a) => a.removeAttribute("aria-current"));
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-12% 0px -80% 0px" });
  for (const id of links.keys()) if (at(id)) watch.observe(at(id));

  exports();
  const svg = document.querySelector("#map-box .drawing svg");
  if (svg) mapOf(svg);
  if (at("persona-list")) personas();
  if (at("filters")) responses();

  // What leaves the page: as a file, under a name of ours, or to the clipboard.
  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  async function copy(button, text) {
    let done = true;
    try { await navigator.clipboard.writeText(text); } catch {
      const area = document.createElement("textarea");
      area.value = text;
      area.setAttribute("readonly", "");
      area.className = "skip";
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.dataset.word ??= button.textContent;
    button.textContent = done ? "Copied" : "The browser forbids it";
    button.setAttribute("aria-live", "polite");
    setTimeout(() => { button.textContent = button.dataset.word; }, 1600);
  }
  // A cell that a spreadsheet could take for a formula begins with an apostrophe; a number stays a number.
  function cell(value) {
    const text = value === null || value === undefined ? "" : String(value);
    const isNumber = /^-?\d+(\.\d+)?(e[-+]?\d+)?$/i.test(text);
    const isFormula = /^[\s\p{C}]*[=+\-@\u2212\uff1d\uff0b\uff0d\uff20|%]/u.test(text) || /^[\t\r\n]/.test(text);
    return `"${(isFormula && !isNumber ? `'${text}` : text).replaceAll('"', '""')}"`;
  }
  function csv(rows) { return rows.map((row) => `${row.map(cell).join(",")}\r\n`).join(""); }
  function rowsOf(table) {
    const plain = (text) => {
      const words = text.replace(/\s+/g, " ").trim();
      const digits = words.replace("\u2212", "-").replace(/^\+/, "").replace(/(\d),(?=\d{3})/g, "$1");
      return /^-?\d+(\.\d+)?$/.test(digits) ? digits : words;
    };
    const rows = [...table.rows].map((row) => [...row.cells].map((one) => {
      const copy = one.cloneNode(true);
      const range = copy.querySelector(".spread, .range");
      copy.querySelectorAll(".spread, .range, .better, .hint, .mark").forEach((part) => part.remove());
      return [plain(copy.textContent), range ? plain(range.textContent) : ""];
    }));
    const ranged = rows[0].map((_, i) => rows.some((row) => row[i]?.[1]));
    return rows.map((row, r) => row.flatMap(([text, range], i) =>
      ranged[i] ? [text, r ? range : `${text}, 95 % interval`] : [text]));
  }
  function exports() {
    document.querySelectorAll(".table").forEach((box) => {
      const table = box.querySelector("table");
      const bar = box.querySelector(".exports");
      if (!table || !bar) return;
      bar.hidden = false;
      bar.querySelector("[data-copy-table]").addEventListener("click", (e) => copy(e.currentTarget, csv(rowsOf(table))));
      const button = bar.querySelector("[data-save-table]");
      button.addEventListener("click", () => save(`${button.dataset.saveTable}.csv`, "text/csv", `\ufeff${csv(rowsOf(table))}`));
    });
    const beside = [...document.querySelectorAll(".beside")];
    const samples = () => csv([["question", "from", "text"], ...beside.flatMap((box) => [...box.querySelectorAll(".cells > div")]
      .map((one) => [box.querySelector(".asked"), one.querySelector(".kind"), one.querySelector(".said")]
        .map((part) => part?.textContent.replace(/\s+/g, " ").trim() ?? "")))]);
    document.querySelectorAll("[data-copy-beside]").forEach((button) => {
      button.parentElement.hidden = false;
      button.addEventListener("click", () => copy(button, samples()));
      button.nextElementSibling.addEventListener("click", () => save("texts.csv", "text/csv", `\ufeff${samples()}`));
    });
    document.querySelectorAll("[data-copy]").forEach((button) => {
      button.hidden = false;
      button.addEventListener("click", () => copy(button, button.parentElement.querySelector("pre").textContent));
    });
  }

  function mapOf(svg) {
    const groups = data.kinds.map((_, kind) => svg.querySelector(`[id$="-kind-${kind}"]`));
    const points = [];
    groups.forEach((group, kind) => {
      [...group.querySelectorAll("use")].forEach((use, i) => {
        points.push({ x: Number(use.getAttribute("x")), y: Number(use.getAttribute("y")), kind, i, use, on: true });
      });
    });
    // With many methods the picture starts with the three that the summary speaks of.
    const on = data.kinds.map((name) => data.kinds.length <= 3 || data.first.includes(name));
    groups.forEach((group, kind) => group.classList.toggle("off", !on[kind]));
    document.querySelectorAll("#legend .key").forEach((key, kind) => {
      const button = make("button", "key");
      button.type = "button";
      button.append(...key.childNodes);
      button.setAttribute("aria-pressed", String(on[kind]));
      button.addEventListener("click", () => {
        on[kind] = !on[kind];
        button.setAttribute("aria-pressed", String(on[kind]));
        groups[kind].classList.toggle("off", !on[kind]);
        if (current && !on[current.kind]) choose(null);
      });
      key.replaceWith(button);
    });

    const reading = at("reading");
    const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    ring.id = "ring";
    ring.setAttribute("r", "4.5");
    ring.setAttribute("visibility", "hidden");
    svg.append(ring);
    let current = null;
    let held = false;
    const choose = (point) => {
      current = point;
      reading.replaceChildren();
      reading.classList.toggle("empty", !point);
      ring.setAttribute("visibility", point ? "visible" : "hidden");
      if (!point) {
        reading.append(make("span", "", "Point at a dot, or tap it, to read its text. With the keyboard, move to the map and use the arrow keys."));
        return;
      }
      ring.setAttribute("cx", point.x);
      ring.setAttribute("cy", point.y);
      const [text, label] = data.points[point.kind][point.i];
      const kind = data.kinds[point.kind] === "real" ? "real text" : data.kinds[point.kind];
      reading.append(make("b", "", label ? `${kind} · ${label}` : kind), make("span", "", text || "(no text)"));
    };
    const nearest = (event) => {
      const matrix = svg.getScreenCTM();
      const x = (event.clientX - matrix.e) / matrix.a;
      const y = (event.clientY - matrix.f) / matrix.d;
      let best = null;
      let least = (22 / matrix.a) ** 2;
      for (const point of points) {
        const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
        if (on[point.kind] && point.on && distance < least) { best = point; least = distance; }
      }
      return best;
    };
    svg.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "mouse" || held) return;
      const point = nearest(event);
      if (point && point !== current) choose(point);
    });
    svg.addEventListener("click", (event) => {
      const point = nearest(event);
      held = Boolean(point) && !(held && point === current);
      choose(point);
    });
    svg.setAttribute("tabindex", "0");
    svg.setAttribute("aria-describedby", "reading");
    const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    svg.addEventListener("keydown", (event) => {
      const way = ways[event.key];
      if (event.key === "Escape") { held = false; choose(null); }
      if (!way) return;
      event.preventDefault();
      const from = current ?? { x: svg.viewBox.baseVal.width / 2, y: svg.viewBox.baseVal.height / 2 };
      let best = null;
      let least = Infinity;
      for (const point of points) {
        const dx = point.x - from.x;
        const dy = point.y - from.y;
        const ahead = dx * way[0] + dy * way[1];
        const aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
        // A cone of 45 degrees, so that every key press moves visibly in its own direction.
        if (on[point.kind] && point.on && ahead > 0.5 && aside <= ahead && ahead + aside < least) {
          best = point;
          least = ahead + aside;
        }
      }
      if (best) { held = true; choose(best); }
    });
    // One label alone, and a closer look at the point that was chosen, or else at the middle.
    const labels = [...new Set(points.map((point) => data.points[point.kind][point.i][1]).filter(Boolean))].sort();
    const menu = at("map-label");
    menu.parentElement.hidden = labels.length < 2;
    ["all", ...labels].forEach((name, i) => {
      const node = make("option", "", name.length > 60 ? `${name.slice(0, 58)}…` : name);
      node.value = i;
      menu.append(node);
    });
    menu.addEventListener("change", () => {
      const wanted = Number(menu.value) ? labels[Number(menu.value) - 1] : null;
      for (const point of points) {
        point.on = wanted === null || data.points[point.kind][point.i][1] === wanted;
        point.use.classList.toggle("off", !point.on);
      }
      if (current && !current.on) choose(null);
    });
    const { width, height } = svg.viewBox.baseVal;
    let zoom = 1;
    const look = (factor) => {
      zoom = Math.min(Math.max(zoom * factor, 1), 8);
      const place = (at, size) => Math.min(Math.max(at - size / zoom / 2, 0), size - size / zoom);
      svg.setAttribute("viewBox", [place(current?.x ?? width / 2, width), place(current?.y ?? height / 2, height),
        width / zoom, height / zoom].join(" "));
      ring.setAttribute("r", 4.5 / Math.sqrt(zoom));
      at("map-out").disabled = zoom === 1;
    };
    at("map-in").addEventListener("click", () => look(2));
    at("map-out").addEventListener("click", () => look(0.5));
    look(1);
    at("map-tools").hidden = false;
    reading.hidden = false;
    choose(null);
  }

  function personas() {
    const list = at("persona-list");
    const rows = [...list.children];
    const more = at("persona-more");
    const first = 12;
    let all = rows.length <= first + 3;
    const fold = () => {
      [...list.children].forEach((row, i) => { row.hidden = !all && i >= first; });
      more.hidden = all;
      more.textContent = `Show all ${rows.length} personas`;
    };
    more.addEventListener("click", () => { all = true; fold(); });
    const buttons = [...at("persona-sort").querySelectorAll("button")];
    for (const button of buttons) {
      button.addEventListener("click", () => {
        const by = button.dataset.sort;
        rows.sort((a, b) => by === "key"
          ? a.dataset.key.localeCompare(b.dataset.key, undefined, { numeric: true })
          : Number(b.dataset[by]) - Number(a.dataset[by]));
        list.append(...rows);
        buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
        fold();
      });
    }
    at("persona-sort").hidden = rows.length < 2;
    addEventListener("beforeprint", () => { rows.forEach((row) => { row.hidden = false; }); });
    addEventListener("afterprint", fold);
    fold();
  }

  function responses() {
    const size = 15;
    const names = ["id", "method", "context", "response", "label", "row", "persona", "shown", "exemplar",
      "temperature", "pi", "omega", "finish", "tokens", "seed", "model"];
    const fields = ["answer", "question", "persona", "label or id"];
    const all = data.responses.map((values, place) => {
      const item = Object.fromEntries(names.map((name, i) => [name, values[i]]));
      const persona = data.personas[item.row];
      item.place = place;
      item.who = persona ? persona[2] : item.persona;
      item.hay = [item.response, item.context, persona ? `${persona[2]}\n${persona[1]}` : item.persona ?? "",
        `${item.label ?? ""}\n${item.id}`].map((text) => text.toLowerCase());
      item.words = item.response.split(/\s+/).filter(Boolean).length;
      return item;
    });
    const option = (select, value, text) => {
      const node = make("option", "", text);
      node.value = value;
      select.append(node);
    };
    const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 2).trimEnd()}…` : text);
    // One menu of the values that occur, the most frequent first; an answer is its place in the list.
    const menu = (id, valueOf, textOf, most = 400) => {
      const counts = new Map();
      all.forEach((item) => { const v = valueOf(item); if (v !== null && v !== undefined) counts.set(v, (counts.get(v) ?? 0) + 1); });
      const values = [...counts].sort((a, b) => b[1] - a[1]).slice(0, most).map(([value]) => value);
      option(at(id), "", `all (${all.length})`);
      values.forEach((value, i) => option(at(id), i, `${textOf(value)} (${counts.get(value)})`));
      at(id).parentElement.hidden = values.length < 2;
      return () => (at(id).value === "" ? null : values[Number(at(id).value)]);
    };
    const endings = { stop: "ended by itself", length: "cut at the length limit", refused: "refused", failed: "failed" };
    const chosen = [
      [menu("by-method", (item) => item.method, (v) => v), (item) => item.method],
      [menu("by-persona", (item) => (item.row >= 0 ? item.row : null), (v) => data.personas[v][2]), (item) => item.row],
      [menu("by-label", (item) => item.label, (v) => cut(v, 60)), (item) => item.label],
      [menu("by-context", (item) => item.context, (v) => cut(v, 70)), (item) => item.context],
      [menu("by-ending", (item) => item.finish, (v) => endings[v] ?? v), (item) => item.finish],
    ];
    option(at("by-field"), "", "everything");
    fields.forEach((name, i) => option(at("by-field"), i, name));
    const orders = [
      ["as drawn", (a, b) => a.place - b.place],
      ["shortest first", (a, b) => a.words - b.words || a.place - b.place],
      ["longest first", (a, b) => b.words - a.words || a.place - b.place],
      ["question", (a, b) => a.context.localeCompare(b.context) || a.id.localeCompare(b.id) || a.place - b.place],
      ["persona", (a, b) => (a.who ?? "").localeCompare(b.who ?? "") || a.place - b.place],
      ["likeliest persona first", (a, b) => (b.pi ?? 0) - (a.pi ?? 0) || a.place - b.place],
    ];
    orders.forEach(([name], i) => option(at("by-order"), i, name));

    let found = all;
    let page = 0;
    let words = [];
    const share = (value) => {
      if (value === null) return "–";
      const p = 100 * value;
      return p > 0 && p < 0.1 ? "<0.1 %" : `${p.toFixed(p >= 10 ? 0 : 1)} %`;
    };
    const because = (title, text) => {
      const node = make("p", "because");
      node.append(make("b", "", title), make("span", "", text));
      return node;
    };
    // A text in which the words looked for are marked.
    const marked = (tag, className, text, field) => {
      const node = make(tag, className, "");
      const low = text.toLowerCase();
      const wanted = low.length === text.length && (at("by-field").value === "" || Number(at("by-field").value) === field) ? words : [];
      let from = 0;
      while (from < text.length) {
        const next = wanted.map((word) => [low.indexOf(word, from), word.length]).filter(([i]) => i >= 0)
          .sort((a, b) => a[0] - b[0] || b[1] - a[1])[0];
        if (!next) break;
        node.append(text.slice(from, next[0]), make("mark", "", text.slice(next[0], next[0] + next[1])));
        from = next[0] + next[1];
      }
      node.append(text.slice(from));
      return node;
    };
    const where = (item) => fields.filter((_, i) => words.some((word) => item.hay[i].includes(word)));
    const card = (item) => {
      const node = make("article", "response");
      node.append(marked("p", "asked", item.context, 1));
      node.append(item.response.trim() ? marked("blockquote", "", item.response, 0) : make("p", "nothing", "(no text)"));
      if (item.who) node.append(marked("p", "by", item.who, 2));
      const meta = make("div", "meta");
      const facts = [item.method, item.label, item.temperature === null ? null : `τ ${item.temperature.toFixed(2)}`,
        item.finish === "stop" ? null : endings[item.finish] ?? item.finish,
        words.length ? `found in: ${where(item).join(", ")}` : null];
      facts.filter(Boolean).forEach((fact) => meta.append(make("span", "", fact)));
      node.append(meta);
      const why = make("details");
      why.append(make("summary", "", "How it came about"));
      why.addEventListener("toggle", () => {
        if (why.children.length > 1) return;
        const persona = data.personas[item.row];
        if (persona) why.append(because(`Persona ${persona[0]}, drawn with probability ${share(item.pi)}`, persona[1]));
        else if (item.persona) why.append(because("Persona", item.persona));
        item.shown.forEach((row) => {
          const [key, context, text] = data.exemplars[row];
          why.append(because(`Real example ${key}, drawn with probability ${share(item.omega)}`, `${context}\n${text}`));
        });
        if (!item.shown.length && item.exemplar) why.append(because("Real example", item.exemplar));
        why.append(because("Details", `id ${item.id} · model ${item.model} · ${item.tokens} tokens · seed ${item.seed}`));
        const button = make("button", "copy", "Copy this text");
        button.type = "button";
        button.addEventListener("click", () => copy(button, item.response));
        why.append(button);
      });
      node.append(why);
      return node;
    };
    const draw = () => {
      const pages = Math.max(1, Math.ceil(found.length / size));
      page = Math.min(Math.max(page, 0), pages - 1);
      at("list").replaceChildren(...found.slice(page * size, (page + 1) * size).map(card));
      at("pager").hidden = pages < 2;
      at("random").disabled = pages < 2;
      at("place").textContent = `${page + 1} of ${pages}`;
      at("previous").disabled = page === 0;
      at("next").disabled = page === pages - 1;
    };
    const filter = () => {
      words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
      const field = at("by-field").value === "" ? null : Number(at("by-field").value);
      const wanted = chosen.map(([valueOf, of]) => [valueOf(), of]).filter(([value]) => value !== null);
      const hit = (item, i, word) => item.hay[i].includes(word);
      found = all.filter((item) => wanted.every(([value, of]) => of(item) === value)
        && words.every((word) => (field === null ? fields.some((_, i) => hit(item, i, word)) : hit(item, field, word))));
      found.sort(orders[Number(at("by-order").value)][1]);
      const inAnswer = (item) => words.every((word) => hit(item, 0, word));
      const n = found.filter(inAnswer).length;
      // What the answer itself says comes before what only its question or persona says.
      if (words.length) found.sort((a, b) => inAnswer(b) - inAnswer(a));
      const said = words.length && field === null && found.length
        ? `: ${n} in the answer${found.length > n ? `, ${found.length - n} only in the question, the persona or the label` : ""}` : "";
      at("count").textContent = (found.length === all.length && !words.length ? `${all.length} responses`
        : `${found.length} of ${all.length} responses`) + said;
      page = 0;
      draw();
    };
    let pause = 0;
    at("search").addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(filter, 120); });
    at("filters").querySelectorAll("select").forEach((select) => select.addEventListener("change", filter));
    at("filters").addEventListener("submit", (event) => { event.preventDefault(); filter(); });
    at("clear").addEventListener("click", () => { at("filters").reset(); filter(); });
    at("random").addEventListener("click", () => {
      const pages = Math.ceil(found.length / size);
      page = (page + 1 + Math.floor(Math.random() * (pages - 1))) % pages;
      draw();
    });
    const titles = ["id", "method", "context", "response", "label", "persona", "persona description", "exemplar", "temperature",
      "finish_reason", "n_tokens", "seed", "model"];
    const values = (item) => [item.id, item.method, item.context, item.response, item.label, item.persona,
      data.personas[item.row]?.[1] ?? null, item.exemplar, item.temperature, item.finish, item.tokens, item.seed, item.model];
    const asCsv = () => csv([titles, ...found.map(values)]);
    // Built pair by pair, so that no text from data becomes the name of a property.
    const asJson = (item) => JSON.stringify(Object.fromEntries(values(item).map((value, i) => [titles[i].replace(" ", "_"), value])));
    at("copy-found").addEventListener("click", (event) => copy(event.currentTarget, asCsv()));
    at("save-csv").addEventListener("click", () => save("responses.csv", "text/csv", `\ufeff${asCsv()}`));
    at("save-jsonl").addEventListener("click", () => save("responses.jsonl", "application/x-ndjson",
      found.map((item) => `${asJson(item)}\n`).join("")));
    const turn = (step) => {
      page += step;
      draw();
      at("count").scrollIntoView({ block: "start" });
    };
    at("previous").addEventListener("click", () => turn(-1));
    at("next").addEventListener("click", () => turn(1));
    at("filters").hidden = false;
    filter();
  }
})();
