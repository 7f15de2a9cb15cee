// The sparsity sliders of the grids: overall, above them, and for layers and gates that can have one of their own, which stand
// elsewhere; each beside a field.
// What is moved is drawn at once and told to Python, which says where the sliders stand only to move them itself.

const PAUSE = 80, REST = 300 // milliseconds between two moves that are told, and until what was moved is taken to rest
const moved = new Map() // by the grids' key: where sliders stand since Python's last edition, should they be made anew
const alive = new Map() // by the grids' key: the views that show them or their sliders

// Take up what Python says, if it says it for the first time.
function adopt(view) {
  const { of, said } = view.sliders, before = moved.get(of)
  if (before?.edition >= said.edition) view.standing = before
  else view.standing = { edition: said.edition, overall: said.overall, layers: { ...said.layers }, gates: { ...said.gates } }
  moved.set(of, view.standing)
  alive.set(of, (alive.get(of) ?? new Set()).add(view))
}

function leave(view) {
  if (view.sliders) alive.get(view.sliders.of)?.delete(view)
}

// The sparsity that holds overall, or for a layer or gate: its own, or that of the level above.
function holding({ standing, sliders }, kind, part) {
  if (kind === "overall") return standing.overall
  return standing[kind][part] ?? (kind === "gates" ? holding({ standing, sliders }, "layers", sliders.layer) : standing.overall)
}

function asSaid({ standing, sliders: { said } }) {
  const alike = (a, b) => Object.keys({ ...a, ...b }).every((part) => a[part] === b[part])
  return standing.overall === said.overall && alike(standing.layers, said.layers) && alike(standing.gates, said.gates)
}

function show(view) {
  view.tuner.hidden = !view.sliders
  if (!view.sliders) return
  adopt(view)
  const made = JSON.stringify([view.sliders.label, view.sliders.groups])
  if (view.made !== made) {
    view.made = made
    build(view)
  }
  refresh(view)
}

function build(view) {
  const { label, groups } = view.sliders
  view.lines = label ? [line(view, "overall", null, label)] : []
  view.tuner.replaceChildren(...view.lines.map(({ box }) => box))
  view.tuner.classList.toggle("stays", Boolean(label))
  if (!groups.length) return
  const reset = make("button", { className: "plain", type: "button" })
  reset.textContent = "Reset to the overall sparsity"
  reset.onclick = () => {
    view.standing.layers = {}
    view.standing.gates = {}
    change(view)
  }
  for (const { kind, parts: named } of groups) {
    const row = make("div", { className: "group" })
    for (const [part, title] of named) {
      view.lines.push(line(view, kind, part, title))
      row.append(view.lines.at(-1).box)
    }
    view.tuner.append(row)
  }
  view.tuner.append(reset)
}

// A slider with what it shows, a field in per cent and, for a part that has a sparsity of its own, a button to follow again.
function line(view, kind, part, title) {
  const box = make("div", { className: kind === "overall" ? "overall" : "part" }), own = kind !== "overall"
  const slider = make("input", { type: "range", min: 0, max: 1, step: 0.01, ariaLabel: title })
  const field = make("input", { type: "number", min: 0, max: 100, step: 1, ariaLabel: own ? `${title}, own sparsity in per cent` : "in %" })
  const shown = make("span", { className: "shown" }), follow = make("button", { className: "plain", type: "button", ariaLabel: `${title}: follow` })
  follow.textContent = "Follow"
  field.placeholder = { layers: "overall", gates: "layer" }[kind] ?? ""
  const set = (share) => {
    if (!own) view.standing.overall = share
    else if (share === null) delete view.standing[kind][part]
    else view.standing[kind][part] = share
    change(view)
  }
  slider.oninput = () => set(Number(slider.value))
  slider.onpointerdown = () => {
    view.held = true
    addEventListener("pointerup", () => letGo(view), { once: true }) // wherever that happens
  }
  slider.onpointercancel = () => letGo(view)
  field.oninput = () => (view.typed = field)
  field.onchange = () => {
    view.typed = null
    if (field.value !== "") set(Math.round(100 * Math.min(Math.max(Number(field.value), 0), 100)) / 1e4)
    else if (own) set(null)
    else refresh(view)
  }
  follow.onclick = () => set(null)
  const name = make("div", { className: "name" })
  name.append(Object.assign(make("span"), { textContent: title }), shown)
  const ends = make("div", { className: "ends" })
  ends.append(field, ...(own ? [follow] : [Object.assign(make("span"), { textContent: "%" })]))
  box.append(name, slider, ends)
  return { kind, part, box, slider, field, shown, follow }
}

const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties)

// Let every slider and field show what holds; what is half typed is left alone.
function refresh(view) {
  for (const { kind, part, box, slider, field, shown, follow } of view.lines) {
    const holds = holding(view, kind, part), own = kind === "overall" ? holds : view.standing[kind][part]
    const percent = (share) => String(Number((100 * share).toFixed(2)))
    slider.value = holds
    slider.setAttribute("aria-valuetext", `${percent(holds)} %`)
    shown.textContent = `${percent(holds)} %`
    if (field !== view.typed) field.value = own === undefined ? "" : percent(own)
    follow.hidden = own === undefined
    box.classList.toggle("own", kind !== "overall" && own !== undefined)
  }
}

// Draw what was moved wherever it shows. If Python hears of it, it is told at once, now and then while something moves on, and
// when it rests.
function change(view) {
  for (const each of alive.get(view.sliders.of)) {
    each.standing = view.standing
    refresh(each)
    each.redraw()
  }
  if (!view.sliders.heard) return
  clearTimeout(view.resting)
  view.restless = true
  // All of the page is made anew where a slider rests, which would take one that is held out of the hand.
  if (!view.held) view.resting = setTimeout(() => rest(view), REST)
  view.untold = true
  if (!view.pausing) send(view)
}

function letGo(view) {
  view.held = false
  if (view.restless) rest(view)
}

function rest(view) {
  clearTimeout(view.resting)
  clearTimeout(view.pausing)
  view.resting = view.pausing = null
  view.untold = view.restless = false
  view.move({ ...view.standing, rests: true })
}

// What is clicked next, or done by a shortcut, is to find told what was moved before it: an undo, say.
function tellAll() {
  for (const view of [...alive.values()].flatMap((views) => [...views])) if (view.untold) send(view)
}
addEventListener("pointerdown", tellAll, true)
addEventListener("keydown", (event) => (event.ctrlKey || event.metaKey) && tellAll(), true)

function send(view) {
  clearTimeout(view.pausing)
  view.untold = false
  view.move({ ...view.standing, rests: false })
  view.pausing = setTimeout(() => {
    view.pausing = null
    if (view.untold) send(view)
  }, PAUSE)
}
