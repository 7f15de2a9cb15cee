// One step of an LSTM. Python sends the numbers of every step, with gates frozen and units removed as they were set; here
// they are shown one step after the other. What is set is told to Python at once, where one stands once it rests.

const ROW = 5, THIN = 2, BARS = 28, GAP = 5, TEXT = 14 // pixels: rows of both kinds of blocks, bars, what is between, a caption
const GLIDE = 300, REST = 400, BEAT = 1100 // milliseconds: numbers that move, until a step is told, between steps that play
const MOST = 4 // the highest cell state that is drawn
const instances = new WeakMap()

export default function ({ data, parentElement, setTriggerValue }) {
  const known = instances.get(parentElement), view = known ?? create(parentElement, data)
  instances.set(parentElement, view)
  view.tell = (after) => {
    clearTimeout(view.resting)
    const told = { at: view.at + 1, frozen: view.frozen.join(""), removed: view.removed.join(",") }
    view.resting = setTimeout(() => setTriggerValue("set", told), after)
  }
  view.data = data
  view.palette = colours(view.root)
  show(view, !known)
  return () => {
    view.resizes.disconnect()
    clearTimeout(view.resting)
    clearInterval(view.playing)
    cancelAnimationFrame(view.gliding)
    instances.delete(parentElement)
  }
}

const make = (tag, facts = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), facts)
  element.append(...children)
  return element
}

function create(parent, data) {
  const root = parent.querySelector(".cell"), find = (name) => root.querySelector(`.${name}`)
  const view = { root, data, at: data.at - 1, frozen: [...data.frozen], removed: [...data.removed], unit: data.unit, canvases: [] }
  Object.assign(view, { said: find("said"), numbers: find("numbers") })
  tape(view, find("tape"))
  data.gates.forEach((gate, index) => find("gates").append(gatePanel(view, gate, index)))
  expects(view, find("expects"))
  states(view, find("states"))
  tools(view, find("tools"))
  root.onkeydown = (event) => {
    const last = data.read.length - 1
    const to = { ArrowLeft: view.at - 1, ArrowRight: view.at + 1, Home: 0, End: last }[event.key]
    if (to === undefined || event.target.tagName === "INPUT") return
    event.preventDefault()
    go(view, to)
  }
  view.resizes = new ResizeObserver(() => requestAnimationFrame(() => draw(view)))
  view.resizes.observe(root)
  return view
}

function tape(view, box) {
  const { read } = view.data
  view.back = make("button", { type: "button", textContent: "Back", onclick: () => go(view, view.at - 1) })
  view.next = make("button", { type: "button", textContent: "Next", onclick: () => go(view, view.at + 1) })
  view.play = make("button", { type: "button", textContent: "Play", onclick: () => play(view, !view.playing) })
  view.tape = [...read].map((symbol, at) => {
    const button = make("button", { type: "button", className: "symbol", textContent: symbol, onclick: () => go(view, at) })
    button.setAttribute("aria-label", `Step ${at + 1}, ${symbol}`)
    return button
  })
  box.append(make("div", { className: "line" }, ...view.tape), view.back, view.next, view.play)
}

function gatePanel(view, gate, index) {
  const swatch = make("span", { className: "swatch" }), what = make("span", { className: "what" })
  swatch.style.background = gate.color
  const button = make("button", { type: "button" }, swatch, make("b", { textContent: gate.name }), ` ${gate.title} `, what)
  button.onclick = () => {
    const names = view.data.gates.map(({ name }) => name)
    view.frozen = names.filter((name) => view.frozen.includes(name) !== (name === gate.name))
    show(view)
    view.tell(0)
  }
  const panel = make("div", { className: "gate" }, button, canvas(view, (pen, size) => drawGate(view, pen, size, index)))
  view.gateButtons = [...(view.gateButtons ?? []), { button, what, gate }]
  return panel
}

function states(view, box) {
  for (const [name, formula] of [["c", "f · c before + i · g"], ["h", "o · tanh c"]]) {
    const head = make("div", { className: "head" }, `${name} = `, make("span", { textContent: formula }))
    box.append(make("div", {}, head, canvas(view, (pen, size) => drawState(view, pen, size, name))))
  }
}

function expects(view, box) {
  view.shares = [...view.data.symbols].map((symbol) => {
    const bar = make("div"), value = make("data")
    const item = make("li", {}, make("div", { className: "well" }, bar), make("b", { textContent: symbol }), value)
    return { item, bar, value, symbol }
  })
  const list = make("ul", { className: "shares" }, ...view.shares.map(({ item }) => item))
  const head = make("div", { className: "head" }, "expects next ", make("span", { textContent: "(underlined: allowed)" }))
  box.append(head, list)
}

function tools(view, box) {
  const units = view.data.values[0].h.length
  view.field = make("input", { type: "number", min: 0, max: units - 1, value: view.unit })
  view.field.oninput = () => point(view, Math.max(0, Math.min(units - 1, Math.round(Number(view.field.value)))))
  view.remove = make("button", { type: "button", onclick: () => toggle(view, view.unit) })
  view.reset = make("button", { type: "button", textContent: "Whole again" })
  view.reset.onclick = () => {
    Object.assign(view, { frozen: [], removed: [] })
    show(view)
    view.tell(0)
  }
  view.gone = make("span")
  const told = "A click on a gate’s name freezes it at its mean; one on a column removes that unit."
  const how = make("span", { className: "how", textContent: told })
  box.append(make("label", {}, "Unit ", view.field), view.remove, view.gone, view.reset, how)
}

function canvas(view, paint) {
  const element = make("canvas")
  element.setAttribute("role", "img")
  const units = view.data.values[0].h.length
  const unitAt = ({ offsetX }) => Math.max(0, Math.min(units - 1, Math.floor((offsetX / element.clientWidth) * units)))
  element.onpointermove = (event) => point(view, unitAt(event))
  element.onclick = (event) => toggle(view, unitAt(event))
  view.canvases.push({ element, paint })
  return element
}

function point(view, unit) {
  if (unit === view.unit) return
  view.unit = unit
  view.field.value = unit
  said(view)
  draw(view)
}

function toggle(view, unit) {
  const others = view.removed.filter((each) => each !== unit)
  view.removed = others.length < view.removed.length ? others : [...others, unit].sort((a, b) => a - b)
  show(view)
  view.tell(0)
}

function go(view, to) {
  const at = Math.max(0, Math.min(view.data.read.length - 1, to))
  if (at === view.at) return play(view, false)
  view.at = at
  show(view)
  view.tell(REST)
}

function play(view, plays) {
  clearInterval(view.playing)
  view.playing = null
  view.play.textContent = plays ? "Pause" : "Play"
  if (!plays) return
  if (view.at === view.data.read.length - 1) go(view, 0)
  view.playing = setInterval(() => go(view, view.at + 1), BEAT)
}

// Words and bars at once; the canvases glide from the numbers that they show to those of this step.
function show(view, still = false) {
  said(view)
  table(view)
  const to = view.data.values[view.at], before = view.data.values[view.at - 1]
  const target = { gates: to.gates, c: to.c, h: to.h, reads: before ? before.h : to.h.map(() => 0) }
  const from = view.shown ?? target, began = performance.now()
  const calm = still || matchMedia("(prefers-reduced-motion: reduce)").matches
  cancelAnimationFrame(view.gliding)
  const frame = (now) => {
    const share = calm ? 1 : Math.min(1, (now - began) / GLIDE), eased = 1 - (1 - share) ** 3
    const blend = (a, b) => (Array.isArray(b) ? b.map((each, index) => blend(a[index], each)) : a + (b - a) * eased)
    view.shown = Object.fromEntries(Object.keys(target).map((name) => [name, blend(from[name], target[name])]))
    draw(view)
    if (share < 1) view.gliding = requestAnimationFrame(frame)
  }
  frame(began)
}

const percent = (share) => `${Math.round(100 * share)} %`

function said(view) {
  const { data, at } = view, { read, legal } = data, { shares } = data.values[at], last = read.length - 1
  view.tape.forEach((button, index) => {
    button.classList.toggle("ahead", index > at)
    if (index === at) button.setAttribute("aria-current", "step")
    else button.removeAttribute("aria-current")
  })
  view.back.disabled = at === 0
  view.next.disabled = at === last
  const may = [...legal[at]], given = may.reduce((sum, symbol) => sum + shares[data.symbols.indexOf(symbol)], 0)
  const text = `Step ${at + 1} of ${read.length} reads ${read[at]}, after ${at ? read.slice(0, at) : "nothing"}. ` +
    `Allowed next: ${may.join(" or ")}, expected with ${percent(given)}.`
  if (view.said.textContent !== text) view.said.textContent = text
  view.shares.forEach(({ item, bar, value, symbol }, index) => {
    const allowed = legal[at].includes(symbol)
    item.classList.toggle("legal", allowed)
    item.title = `${symbol} ${percent(shares[index])}${allowed ? ", allowed" : ""}`
    bar.style.height = `${100 * shares[index]}%`
    value.value = shares[index]
    value.textContent = percent(shares[index])
  })
  for (const { button, what, gate } of view.gateButtons) {
    const frozen = view.frozen.includes(gate.name)
    button.setAttribute("aria-pressed", frozen)
    what.textContent = frozen ? "frozen" : "freeze"
  }
  const gone = view.removed.includes(view.unit)
  view.remove.textContent = gone ? `Put unit ${view.unit} back` : `Remove unit ${view.unit}`
  view.gone.textContent = view.removed.length ? `Removed: ${view.removed.join(", ")}` : ""
  view.reset.hidden = !view.removed.length && !view.frozen.length
}

function table(view) {
  const { gates, c, h } = view.data.values[view.at], names = [...view.data.gates.map(({ name }) => name), "c", "h"]
  const cellOf = (value) => make("td", {}, make("data", { value, textContent: value.toFixed(3) }))
  const columns = [...gates, c, h]
  const lines = h.map((_, unit) =>
    make("tr", {}, make("th", { scope: "row", textContent: unit }), ...columns.map((of) => cellOf(of[unit]))))
  const head = make("tr", {}, ...["unit", ...names].map((textContent) => make("th", { scope: "col", textContent })))
  view.numbers.setAttribute("role", "region")
  view.numbers.setAttribute("aria-label", `Gates and states of every unit at step ${view.at + 1}`)
  view.numbers.replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines)))
}

function colours(element) {
  const style = getComputedStyle(element), read = (name) => style.getPropertyValue(name).trim()
  const bytes = (hex) => [1, 3, 5].map((at) => parseInt(hex.trim().slice(at, at + 2), 16))
  const stops = read("--st-chart-diverging-colors").split(",").map(bytes)
  const shade = (share) => {
    const at = Math.max(0, Math.min(1, share)) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2)
    return `rgb(${stops[low].map((part, index) => Math.round(part + (stops[low + 1][index] - part) * (at - low)))})`
  }
  return {
    ramp: Array.from({ length: 201 }, (_, index) => shade(index / 200)),
    text: read("--st-text-color"), background: read("--st-background-color"), font: read("--st-font"),
    primary: read("--st-primary-color"), line: read("--st-border-color"),
  }
}

function draw(view) {
  if (!view.shown) return
  for (const { element, paint } of view.canvases) {
    const wide = element.clientWidth, scale = window.devicePixelRatio || 1
    if (!wide) continue
    const units = view.shown.h.length, size = { wide, cell: wide / units, units, inset: wide / units > 4 ? 1 : 0.5 }
    const high = paint(null, size)
    element.width = Math.round(wide * scale)
    element.height = Math.round(high * scale)
    element.style.height = `${high}px`
    const pen = element.getContext("2d")
    pen.scale(scale, scale)
    paint(pen, size)
  }
}

// The unit that is pointed at is one column of every picture.
function column(view, pen, { cell }, top, high) {
  pen.strokeStyle = view.palette.text
  pen.strokeRect(view.unit * cell, top + 0.5, cell, high - 1)
}

function drawGate(view, pen, size, index) {
  const { data, palette, shown } = view, { symbols, gates } = data, { name, title, color, blocks } = gates[index]
  const high = 2 * TEXT + symbols.length * ROW + size.units * THIN + 2 * GAP + BARS
  if (!pen) return high
  const alt = `${title} gate: its weights for the symbol and for h, and its value for each unit`
  view.canvases[index].element.setAttribute("aria-label", alt)
  let top = caption(view, pen, `${blocks[0]}: what it reads, ${data.read[view.at]}`, 0)
  const now = symbols.indexOf(data.read[view.at])
  block(view, pen, size, data.ih[index], top, ROW, (row) => (row === now ? 1 : 0.16))
  top = caption(view, pen, `${blocks[1]}: h of the step before`, top + symbols.length * ROW + GAP)
  const most = Math.max(...shown.reads.map(Math.abs)) || 1
  block(view, pen, size, data.hh[index], top, THIN, (row) => 0.16 + 0.84 * (Math.abs(shown.reads[row]) / most))
  top += size.units * THIN + GAP
  bars(view, pen, size, shown.gates[index], top, BARS, name === "g" ? [-1, 1] : [0, 1], color, view.frozen.includes(name))
  return high
}

function drawState(view, pen, size, name) {
  const high = 40
  if (!pen) return high
  const place = view.data.gates.length + (name === "c" ? 0 : 1)
  view.canvases[place].element.setAttribute("aria-label", `${name === "c" ? "Cell" : "Hidden"} state of each unit`)
  bars(view, pen, size, view.shown[name], 0, high, name === "c" ? [-MOST, MOST] : [-1, 1], view.palette.primary, false)
  return high
}

function caption({ palette }, pen, text, top) {
  pen.globalAlpha = 0.8
  pen.fillStyle = palette.text
  pen.font = `11px ${palette.font}`
  pen.fillText(text, 0, top + 10)
  pen.globalAlpha = 1
  return top + TEXT
}

function block(view, pen, { cell, units }, shades, top, high, strength) {
  shades.forEach((line, row) => {
    pen.globalAlpha = strength(row)
    for (let unit = 0; unit < units; unit++) {
      if (view.removed.includes(unit)) continue
      pen.fillStyle = view.palette.ramp[line[unit] + 100]
      pen.fillRect(unit * cell, top + row * high, cell, high)
    }
  })
  pen.globalAlpha = 1
  column(view, pen, { cell }, top, shades.length * high)
}

function bars(view, pen, { wide, cell, units, inset }, values, top, high, [low, most], color, frozen) {
  const at = (value) => top + high * (1 - (Math.max(low, Math.min(most, value)) - low) / (most - low)), zero = at(0)
  pen.fillStyle = view.palette.line
  pen.fillRect(0, Math.min(zero, top + high - 1), wide, 1)
  for (let unit = 0; unit < units; unit++) {
    if (view.removed.includes(unit)) continue
    const edge = at(values[unit]), from = Math.min(edge, zero), tall = Math.max(1, Math.abs(edge - zero))
    pen.fillStyle = pen.strokeStyle = color
    if (frozen) pen.strokeRect(unit * cell + inset, from + 0.5, cell - 2 * inset, Math.max(0, tall - 1))
    else pen.fillRect(unit * cell + inset / 2, from, cell - inset, tall)
  }
  column(view, pen, { cell }, top, high)
}
