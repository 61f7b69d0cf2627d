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
  for (const id of links.keys()) watch.observe(at(id));

  const svg = document.querySelector("#map-box .drawing svg");
  if (svg) mapOf(svg);
  if (at("persona-list")) personas();
  if (data.responses.length) responses();

  function mapOf(svg) {
    const groups = data.kinds.map((_, kind) => svg.querySelector(`[id$="-kind-${kind}"]`));
    const points = [];
    groups.forEach((group, kind) => {
      [...group.querySelectorAll("use")].forEach((use, i) => {
        points.push({ x: Number(use.getAttribute("x")), y: Number(use.getAttribute("y")), kind, i });
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
        if (on[point.kind] && distance < least) { best = point; least = distance; }
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
        if (on[point.kind] && ahead > 0.5 && aside <= ahead && ahead + aside < least) {
          best = point;
          least = ahead + aside;
        }
      }
      if (best) { held = true; choose(best); }
    });
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
    const all = data.responses.map((values) => {
      const item = Object.fromEntries(names.map((name, i) => [name, values[i]]));
      const persona = data.personas[item.row];
      item.hay = [item.response, item.context, item.label, item.persona, item.id, persona && persona[1]]
        .filter(Boolean).join("\n").toLowerCase();
      return item;
    });
    const option = (select, value, text) => {
      const node = make("option", "", text);
      node.value = value;
      select.append(node);
    };
    const methods = [...new Set(all.map((item) => item.method))];
    option(at("by-method"), "", `all (${all.length})`);
    methods.forEach((name, i) => option(at("by-method"), i, `${name} (${all.filter((r) => r.method === name).length})`));
    const used = new Map();
    all.forEach((item) => { if (item.row >= 0) used.set(item.row, (used.get(item.row) ?? 0) + 1); });
    option(at("by-persona"), "", "all");
    [...used].sort((a, b) => b[1] - a[1]).forEach(([row, n]) => {
      const words = data.personas[row][1];
      option(at("by-persona"), row, `${words.length > 60 ? `${words.slice(0, 58)}…` : words} (${n})`);
    });
    at("by-persona").parentElement.hidden = used.size === 0;
    at("by-method").parentElement.hidden = methods.length < 2;

    let found = all;
    let page = 0;
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
    const card = (item) => {
      const node = make("article", "response");
      node.append(make("p", "asked", item.context));
      node.append(item.response.trim() ? make("blockquote", "", item.response) : make("p", "nothing", "(no text)"));
      const who = data.personas[item.row];
      if (who) node.append(make("p", "by", who[1].length > 130 ? `${who[1].slice(0, 128).trimEnd()}…` : who[1]));
      const meta = make("div", "meta");
      const facts = [item.method, item.label, item.temperature === null ? null : `τ ${item.temperature.toFixed(2)}`,
        item.finish === "length" ? "cut at the length limit" : item.finish === "stop" ? null : item.finish];
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
      });
      node.append(why);
      return node;
    };
    const draw = () => {
      const pages = Math.max(1, Math.ceil(found.length / size));
      page = Math.min(Math.max(page, 0), pages - 1);
      at("list").replaceChildren(...found.slice(page * size, (page + 1) * size).map(card));
      at("count").textContent = found.length === all.length ? `${all.length} responses`
        : `${found.length} of ${all.length} responses`;
      at("pager").hidden = pages < 2;
      at("place").textContent = `${page + 1} of ${pages}`;
      at("previous").disabled = page === 0;
      at("next").disabled = page === pages - 1;
    };
    const filter = () => {
      const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
      const method = at("by-method").value === "" ? null : methods[Number(at("by-method").value)];
      const row = at("by-persona").value === "" ? null : Number(at("by-persona").value);
      found = all.filter((item) => (method === null || item.method === method)
        && (row === null || item.row === row) && words.every((word) => item.hay.includes(word)));
      page = 0;
      draw();
    };
    let pause = 0;
    at("search").addEventListener("input", () => { clearTimeout(pause); pause = setTimeout(filter, 120); });
    at("by-method").addEventListener("change", filter);
    at("by-persona").addEventListener("change", filter);
    at("filters").addEventListener("submit", (event) => { event.preventDefault(); filter(); });
    const turn = (step) => {
      page += step;
      draw();
      at("count").scrollIntoView({ block: "start" });
    };
    at("previous").addEventListener("click", () => turn(-1));
    at("next").addEventListener("click", () => turn(1));
    at("filters").hidden = false;
    draw();
  }
})();
