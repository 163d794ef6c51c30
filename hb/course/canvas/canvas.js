// The live canvas in the browser. The kernel draws; this file shows pictures, turns hands and keys into messages, and
// measures the time from a key to its picture. No library, no network.

const KEPT = 1000; // latencies that percentiles are taken of
const STEP = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const EXAMPLE = { draw: "a red circle left of a blue star", edit: "make the star green" };
const EMPTY = "There is no picture yet; type what to draw.";
const LARGE_DRIFT = 0.05; // mean change of a pixel outside the edits, of 1: what can be seen

function make(tag, parent, attributes = {}, text = "") {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function button(parent, text, act, attributes = {}) {
  const node = make("button", parent, { type: "button", ...attributes }, text);
  node.addEventListener("click", act);
  return node;
}

// RGB bytes of the kernel on a canvas of as many pixels
function paint(canvas, view, width, height) {
  const rgb = new Uint8Array(view.buffer ?? view, view.byteOffset ?? 0, 3 * width * height);
  const image = new ImageData(width, height);
  for (let i = 0, j = 0; j < rgb.length; i += 4, j += 3) {
    image.data[i] = rgb[j];
    image.data[i + 1] = rgb[j + 1];
    image.data[i + 2] = rgb[j + 2];
    image.data[i + 3] = 255;
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function percentile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)];
}

function download(name, blob) {
  const link = make("a", document.body, { download: name, href: URL.createObjectURL(blob) });
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function render({ model, el }) {
  const world = model.get("world"), about = model.get("about");
  const name = `hb-${Math.random().toString(36).slice(2)}`; // several canvases on a page: each its own radio buttons
  let seq = 0, verb = "draw", things = [], selected = null, place = null, shown = false, color = "red";
  let turns = [], position = 0;
  const waiting = new Map(), asked = new Map(), latencies = [], thumbs = new Map();

  // ---- what is on the page ----------------------------------------------------------------------------------------

  const root = make("div", el, { class: "hb-canvas", role: "group", "aria-label": "Drawing canvas", tabindex: "-1" });
  const top = make("div", root, { class: "hb-row" });
  const modes = make("div", top, { role: "radiogroup", "aria-label": "What the words do", class: "hb-row" });
  const radios = {};
  for (const [value, text] of [["draw", "Draw"], ["edit", "Edit"]]) {
    const label = make("label", modes);
    radios[value] = make("input", label, { type: "radio", name, value });
    label.append(` ${text}`);
    radios[value].addEventListener("change", () => { setVerb(value); box.focus(); typed(performance.now()); });
  }
  const box = make("input", top, {
    type: "text", class: "hb-text", "aria-label": "Words", spellcheck: "false", autocomplete: "off", maxlength: "300",
  });
  const keep = button(top, "Keep", () => accept(), { title: "Keep this picture and go on from it (Enter)", "data-needs": "picture" });
  const told = make("div", root, { class: "hb-told" });
  const hint = make("div", told, { class: "hb-hint", role: "status", "aria-live": "polite" });
  make("div", told, { class: "hb-busy hb-small", "aria-hidden": "true" }, "drawing …");

  const middle = make("div", root, { class: "hb-middle" });
  const left = make("div", middle, { class: "hb-left" });
  const stage = make("div", left, { class: "hb-stage" });
  const picture = make("canvas", stage, { width: 64, height: 64, role: "img", "aria-label": "Nothing is drawn yet" });
  const ninths = make("div", stage, { class: "hb-ninths", "aria-hidden": "true" });
  for (const where of world.places) make("div", ninths, { "data-place": where });
  const layer = make("div", stage, { class: "hb-layer" });
  const meterRow = make("div", left, { class: "hb-row hb-small" });
  make("label", meterRow, { for: `${name}-drift`, title: "Mean change, of 1, of the pixels that no edit so far was to change" }, "Drift");
  const meter = make("meter", meterRow, { id: `${name}-drift`, min: 0, max: 2 * LARGE_DRIFT, high: LARGE_DRIFT, value: 0 });
  const driftText = make("span", meterRow, { class: "hb-drift" }, "–");
  const speed = make("div", left, { class: "hb-small hb-speed" });

  const tools = make("div", middle, { class: "hb-tools", role: "group", "aria-label": "Tools" });
  const about_ = make("div", tools, { class: "hb-about", "aria-live": "polite" });
  const colors = section("Color");
  for (const [word, hex] of Object.entries(world.colors)) swatch(colors, word, hex, () => pickColor(word));
  const shapes = section("Shape");
  for (const word of world.shapes) button(shapes, word, () => pickShape(word), { "data-shape": word });
  const sizes = section("Size");
  for (const word of world.sizes) button(sizes, word, () => gesture({ kind: "resize", size: word }), { "data-size": word });
  const remove = button(sizes, "Remove", () => gesture({ kind: "remove" }), { "data-act": "remove" });
  const grounds = section("Background");
  for (const [word, hex] of Object.entries(world.backgrounds))
    swatch(grounds, word, hex, () => gesture({ kind: "background", background: word }));

  const acts = make("div", root, { class: "hb-row", role: "group", "aria-label": "Turns and files" });
  button(acts, "Undo", () => ask("undo"), { title: "Ctrl+Z", "data-act": "undo", "data-needs": "picture" });
  const redo = button(acts, "Redo", () => ask("redo"), { title: "Ctrl+Shift+Z", "data-act": "redo" });
  button(acts, "Other noise", () => ask("reseed"), { "data-act": "reseed", title: "The same words from another noise", "data-needs": "picture" });
  button(acts, "Save picture", savePicture, { "data-act": "save-picture", "data-needs": "picture" });
  button(acts, "Save history", () => ask("history"), { "data-act": "save-history", "data-needs": "picture" });
  const open = make("label", acts, { class: "hb-open" }, "Open");
  const file = make("input", open, { type: "file", accept: ".json,.png,.jpg,.jpeg,.webp", "aria-label": "Open a history or a picture" });
  const strip = make("ol", root, { class: "hb-strip", "aria-label": "Turns" });

  const beside = make("div", root, { class: "hb-beside", role: "group", "aria-label": "The same request by others" });
  make("div", beside, { class: "hb-small hb-besides" }, "The same request from the same noise, drawn by:");
  const others = {};
  for (const [who, text] of [["1", "1 NFE"], ["6", "6 NFE"], ["teacher", "Teacher"]]) {
    const panel = make("div", beside, { class: "hb-other", "data-who": who });
    button(panel, text, () => compare(who), { "data-needs": "picture" });
    others[who] = { panel, canvas: make("canvas", panel, { width: 1, height: 1, role: "img", "aria-label": `${text}: not drawn yet` }), state: make("div", panel, { class: "hb-small" }) };
  }

  function section(title) {
    const row = make("fieldset", tools);
    make("legend", row, {}, title);
    return row;
  }

  function swatch(row, word, hex, act) {
    const node = button(row, "", act, { class: "hb-swatch", "aria-label": word, title: word, "data-word": word });
    node.style.background = hex;
  }

  // ---- to the kernel ----------------------------------------------------------------------------------------------

  function ask(type, values = {}, buffers = []) {
    seq += 1;
    asked.set(seq, values);
    tellBusy();
    model.send({ type, seq, ...values }, undefined, buffers);
    return seq;
  }

  // requests are answered in order; what gave way to a newer one is answered with it
  function answered(message, buffers) {
    if (message.type === "instruction" || (message.type === "other" && !message.stopped && !buffers.length)) return;
    for (const number of [...asked.keys()]) if (number <= (message.seq ?? 0)) asked.delete(number);
    tellBusy();
  }

  function tellBusy() {
    root.dataset.busy = stage.ariaBusy = asked.size > 0;
  }

  function typed(when) {
    waiting.set(ask("text", { verb, text: box.value }), when);
  }

  function accept() {
    if (!shown) return say(EMPTY);
    ask("accept");
    box.value = "";
    setVerb("edit");
    say("");
    box.focus();
  }

  function gesture(what, of = selected) {
    const needs = !["add", "background"].includes(what.kind);
    if (needs && of === null) return say("Select a thing in the picture first.");
    ask("gesture", { gesture: needs ? { ...what, thing: of, words: things[of].words } : what });
  }

  function pickColor(word) {
    color = word;
    if (selected !== null) gesture({ kind: "recolor", color: word });
    else tellTools();
  }

  function pickShape(word) {
    if (selected !== null) gesture({ kind: "replace", shape: word });
    else gesture({ kind: "add", shape: word, color, ...(place ? { place } : {}) });
  }

  function compare(who) {
    const { canvas, state } = others[who];
    if (shown) {
      canvas.width = 1; // hidden: it is of an earlier request
      state.textContent = "…";
    }
    ask("compare", { who });
  }

  function savePicture() {
    if (!shown) say(EMPTY);
    else picture.toBlob((blob) => download("hb-picture.png", blob), "image/png");
  }

  box.addEventListener("input", (event) => typed(event.timeStamp || performance.now()));
  file.addEventListener("change", async () => {
    if (file.files.length) ask("open", {}, [await file.files[0].arrayBuffer()]);
    file.value = "";
  });

  // ---- hands and keys ---------------------------------------------------------------------------------------------

  function where(event) {
    const area = stage.getBoundingClientRect();
    const share = (value, low, size) => Math.min(0.999, Math.max(0, (value - low) / size));
    return [share(event.clientX, area.left, area.width), share(event.clientY, area.top, area.height)];
  }

  const placeAt = (x, y) => world.places[3 * Math.floor(3 * y) + Math.floor(3 * x)];

  function mark(what) {
    for (const ninth of ninths.children) ninth.classList.toggle("hb-marked", ninth.dataset.place === what);
  }

  layer.addEventListener("pointerdown", (event) => {
    if (event.target !== layer) return;
    select(null);
    place = placeAt(...where(event)); // an empty spot: where the next shape is added
    mark(place);
    tellTools();
  });

  function drag(node, number) {
    let from = null, moved = false;
    node.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      from = [event.clientX, event.clientY];
      moved = false;
      node.setPointerCapture(event.pointerId);
    });
    node.addEventListener("pointermove", (event) => {
      if (!from) return;
      const [dx, dy] = [event.clientX - from[0], event.clientY - from[1]];
      moved = moved || Math.hypot(dx, dy) > 5;
      if (!moved) return;
      node.style.transform = `translate(${dx}px, ${dy}px)`;
      mark(placeAt(...where(event)));
    });
    const end = (event, done) => {
      if (!from) return;
      from = null;
      node.style.transform = "";
      mark(null);
      if (!done || !moved) return;
      const [x, y] = where(event);
      select(number);
      if (placeAt(x, y) !== things[number].place) gesture({ kind: "move", x, y }, number);
    };
    node.addEventListener("pointerup", (event) => end(event, true));
    node.addEventListener("pointercancel", (event) => end(event, false));
    node.addEventListener("click", () => { if (!moved) select(selected === number ? null : number); moved = false; });
    node.addEventListener("keydown", (event) => {
      if (event.key in STEP) {
        const at = world.places.indexOf(things[number].place), [dx, dy] = STEP[event.key];
        const x = at % 3 + dx, y = Math.floor(at / 3) + dy;
        if (x >= 0 && x < 3 && y >= 0 && y < 3) gesture({ kind: "move", place: world.places[3 * y + x] }, number);
      } else if (event.key === "Delete" || event.key === "Backspace") gesture({ kind: "remove" }, number);
      else if (event.key === "Escape") select(null);
      else return;
      event.preventDefault();
    });
  }

  root.addEventListener("keydown", (event) => {
    event.stopPropagation(); // JupyterLab would take the arrows, and letters for commands
    const key = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
    if (event.target === box && key === "enter") { event.preventDefault(); accept(); return; }
    const ownUndo = event.target === box && box.value; // in words that are being typed, the browser undoes letters
    if (control && (key === "z" || key === "y") && !ownUndo) {
      event.preventDefault();
      ask(key === "y" || event.shiftKey ? "redo" : "undo");
    }
  });

  function select(number) {
    selected = number;
    if (number !== null) { place = null; mark(null); }
    [...layer.children].forEach((node, i) => node.setAttribute("aria-pressed", i === number));
    tellTools();
  }

  function tellTools() {
    const thing = selected === null ? null : things[selected];
    about_.textContent = thing ? `Selected: ${thing.words}`
      : !shown ? "Here the things of a picture are changed, and others are added."
      : place ? `A shape adds a ${color} one: ${place}` : `Click a thing, or an empty spot. A shape adds a ${color} one.`;
    remove.disabled = !thing;
    for (const node of sizes.querySelectorAll("[data-size]")) node.disabled = !thing || thing.size === node.dataset.size;
    for (const node of shapes.children) if (node.dataset.shape) node.disabled = thing?.shape === node.dataset.shape;
    for (const node of colors.querySelectorAll(".hb-swatch"))
      node.setAttribute("aria-pressed", node.dataset.word === (thing ? thing.color : color));
  }

  // ---- from the kernel --------------------------------------------------------------------------------------------

  function say(text, wrong = false) {
    hint.textContent = text;
    hint.classList.toggle("hb-wrong", wrong);
  }

  // no `disabled`: a button that has just been pressed would lose the keyboard
  function setShown(value) {
    shown = value;
    for (const node of root.querySelectorAll("[data-needs=picture]")) node.setAttribute("aria-disabled", !value);
  }

  function setVerb(value) {
    verb = value;
    radios[value].checked = true;
    box.placeholder = EXAMPLE[value];
    box.setAttribute("aria-label", value === "draw" ? "What to draw" : "What to change");
  }

  // every key up to this one has its picture once the next frame is on the screen
  function measure(upTo) {
    const keys = [...waiting].filter(([number]) => number <= upTo);
    keys.forEach(([number]) => waiting.delete(number));
    if (document.hidden || !keys.length) return;
    requestAnimationFrame(() => setTimeout(() => {
      const now = performance.now();
      for (const [, when] of keys) latencies.push(now - when);
      latencies.splice(0, latencies.length - KEPT);
      root.dataset.latencies = JSON.stringify(latencies.map((ms) => Math.round(10 * ms) / 10));
      const [p50, p95] = [percentile(latencies, 0.5), percentile(latencies, 0.95)];
      speed.textContent = `key to picture: p50 ${p50.toFixed(0)} ms, p95 ${p95.toFixed(0)} ms (${latencies.length} ${latencies.length === 1 ? "key" : "keys"}) · ${parts}`;
    }));
  }

  // things of an old picture go away; whoever was on one of them with the keyboard comes back to it in the new picture
  let gone = null;
  function leave() {
    const on = [...layer.children].indexOf(el.getRootNode().activeElement);
    if (on >= 0) {
      gone = { ...things[on], on };
      root.focus({ preventScroll: true });
    }
    layer.replaceChildren();
    things = [];
    select(null);
  }

  function comeBack() {
    if (gone && el.getRootNode().activeElement === root && things.length) {
      const alike = things.findIndex((thing) => thing.shape === gone.shape && thing.color === gone.color);
      layer.children[alike >= 0 ? alike : Math.min(gone.on, things.length - 1)].focus({ preventScroll: true });
    }
    gone = null;
  }

  let parts = "";
  const answers = {
    picture(message, buffers) {
      paint(picture, buffers[0], message.width, message.height);
      if (root.dataset.shown !== message.said) for (const who in others) others[who].panel.classList.add("hb-old");
      setShown(true);
      root.dataset.shown = message.said;
      root.dataset.seq = message.seq ?? 0;
      const milliseconds = Object.entries(message.seconds).map(([part, s]) => `${part} ${(1000 * s).toFixed(0)}`);
      parts = message.nfe ? `${message.nfe} NFE by ${message.student}: ${milliseconds.join(", ")} ms` : "";
      picture.setAttribute("aria-label", message.said);
      say("");
      leave();
      measure(message.seq ?? 0);
    },
    look(message) {
      things = message.things;
      picture.setAttribute("aria-label", message.words);
      things.forEach((thing, number) => {
        const node = make("button", layer, { type: "button", class: "hb-thing", "aria-label": thing.words, "aria-pressed": "false" });
        Object.assign(node.style, {
          left: `${100 * (thing.x - thing.radius)}%`, top: `${100 * (thing.y - thing.radius)}%`,
          width: `${200 * thing.radius}%`, height: `${200 * thing.radius}%`,
        });
        drag(node, number);
      });
      comeBack();
      showDrift(message.drift);
      if (message.note) say(message.note);
      root.dataset.looked = message.seq ?? 0;
    },
    hint(message) {
      for (const number of [...waiting.keys()]) if (number <= (message.seq ?? 0)) waiting.delete(number);
      const who = asked.get(message.seq)?.who;
      if (who) others[who].state.textContent = "";
      say(message.text, message.wrong);
      root.dataset.hinted = message.seq ?? 0;
    },
    instruction(message) {
      setVerb("edit");
      box.value = message.text;
    },
    nothing() {
      setShown(false);
      paint(picture, new Uint8Array(3).fill(255), 1, 1);
      picture.setAttribute("aria-label", "Nothing is drawn yet");
      leave();
      showDrift(null);
      setVerb("draw");
      say("Type what to draw, and press Enter to keep it.");
      delete root.dataset.shown;
    },
    state(message, buffers) {
      message.new.forEach((id, i) => thumbs.set(id, { view: buffers[i], size: message.sizes[i] }));
      turns = message.turns;
      position = message.position;
      root.dataset.position = position;
      root.dataset.turns = turns.length;
      redo.setAttribute("aria-disabled", position >= turns.length);
      strip.replaceChildren();
      turns.forEach(showTurn);
    },
    history(message) {
      download("hb-history.json", new Blob([message.text], { type: "application/json" }));
    },
    other(message, buffers) {
      const { canvas, state, panel } = others[message.who];
      if (message.stopped) state.textContent = "stopped: something newer came";
      else if (!buffers.length) state.textContent = `${Math.round(100 * message.share)} %`;
      else {
        paint(canvas, buffers[0], about.side, about.side);
        const made = message.student && message.made_for !== message.nfe ? `, made for ${message.made_for}` : "";
        state.textContent = `${message.nfe} NFE by ${message.student ?? "the teacher"}${made}: ${message.seconds.toFixed(2)} s`;
        panel.classList.toggle("hb-old", message.said !== root.dataset.shown);
        canvas.title = message.said;
        canvas.setAttribute("aria-label", `${message.said}, by ${message.nfe} evaluations`);
      }
    },
  };

  function showDrift(drift) {
    meter.value = drift ?? 0;
    driftText.textContent = drift === null ? "–" : drift.toFixed(4);
  }

  function showTurn(turn, i) {
    const item = make("li", strip, i + 1 > position ? { class: "hb-undone" } : {});
    const told = turn.drift === null ? "" : `, drift ${turn.drift.toFixed(4)}`;
    const node = button(item, "", () => ask("go_to", { position: i + 1 }), {
      "aria-label": `turn ${i + 1}: ${turn.said || "an opened picture"}${told}${i + 1 > position ? ", undone" : ""}`, title: turn.said || "opened",
    });
    if (i + 1 === position) node.setAttribute("aria-current", "step");
    const { view, size } = thumbs.get(turn.id);
    paint(make("canvas", node, { "aria-hidden": "true" }), view, ...size);
    make("span", node, {}, turn.said || "opened");
    if (turn.drift !== null) make("meter", item, { min: 0, max: 2 * LARGE_DRIFT, high: LARGE_DRIFT, value: turn.drift, "aria-label": `drift ${turn.drift.toFixed(4)}` });
  }

  const received = (message, buffers) => {
    answers[message.type]?.(message, buffers ?? []);
    answered(message, buffers ?? []);
  };
  model.on("msg:custom", received);
  setVerb("draw");
  setShown(false);
  tellTools();
  speed.textContent = `${about.model}, student ${about.student}, ${about.nfe} NFE`;
  ask("hello");
  return () => model.off("msg:custom", received);
}

export default { render };
