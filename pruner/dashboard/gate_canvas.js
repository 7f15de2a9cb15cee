// The eight gate grids of one layer and direction: every unit one cell, drawn here from scores and ranks that are sent once,
// so that they follow the sliders above them, those of gate_sliders.js, without a word from the server.

const GAP = 12, TITLE = 20, LEAST_LINED = 6 // pixels; cells smaller than this have no lines between them
const LARGEST = 300, ABOVE = 290 // pixels: of a grid, and of what stands above grids that are all to be seen with their slider
const instances = new WeakMap()

export default function ({ data, parentElement, setTriggerValue }) {
  const view = instances.get(parentElement) ?? create(parentElement)
  instances.set(parentElement, view)
  view.select = (unit) => setTriggerValue("unit", unit)
  view.move = (standing) => setTriggerValue("move", standing)
  Object.assign(view, unpack(data))
  view.palette = colours(view.canvas)
  show(view)
  draw(view)
  return () => {
    view.resizes.disconnect()
    leave(view)
    clearTimeout(view.resting)
    clearTimeout(view.pausing)
    instances.delete(parentElement)
  }
}

function create(parent) {
  const find = (name) => parent.querySelector(`.${name}`)
  const view = { hovered: null }
  for (const name of ["tuner", "grids", "tip", "foot", "legend", "save", "spoken"]) view[name === "grids" ? "canvas" : name] = find(name)
  const redraw = view.redraw = () => {
    if (view.waiting) return
    view.waiting = requestAnimationFrame(() => {
      view.waiting = null
      draw(view)
    })
  }
  view.resizes = new ResizeObserver(redraw)
  view.resizes.observe(view.canvas.parentElement)
  const hover = (unit, place) => {
    if (unit !== view.hovered) {
      view.hovered = unit
      redraw()
    }
    tell(view, unit, place)
  }
  view.canvas.onpointermove = (event) => {
    const found = under(view, event)
    hover(found?.unit ?? null, found)
  }
  view.canvas.onpointerleave = () => hover(null, null)
  view.canvas.onclick = (event) => {
    const found = under(view, event)
    if (found) view.select(found.unit)
  }
  view.canvas.onkeydown = (event) => walk(view, event, hover)
  view.save.onclick = () => {
    const link = document.createElement("a")
    link.download = "gates.png"
    link.href = view.canvas.toDataURL("image/png")
    link.click()
  }
  return view
}

// Bytes of Python: length of the header, the header as JSON, then float32 scores (B, H), float32 unit scores (H,), int32
// ranks (B, H) and, if there is a pinned mask, uint8 (B, H), 1 = kept.
function unpack(bytes) {
  const start = 4 + new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true)
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, start)))
  const body = bytes.slice(start).buffer // copied, because typed arrays must be aligned
  const count = header.blocks.length * header.hidden
  return {
    ...header,
    scores: new Float32Array(body, 0, count),
    units: new Float32Array(body, 4 * count, header.hidden),
    ranks: new Int32Array(body, 4 * (count + header.hidden), count),
    pinned: header.compared ? new Uint8Array(body, 4 * (2 * count + header.hidden), count) : null,
  }
}

function colours(element) {
  const style = getComputedStyle(element)
  const read = (name) => style.getPropertyValue(name).trim()
  const stops = read("--st-chart-sequential-colors").split(",").map(rgb)
  const ramp = Array.from({ length: 256 }, (_, index) => {
    const at = (index / 255) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2)
    return stops[low].map((part, channel) => Math.round(part + (stops[low + 1][channel] - part) * (at - low)))
  })
  const grey = ramp.map(([red, green, blue]) => Array(3).fill(Math.round(0.3 * red + 0.59 * green + 0.11 * blue)))
  return { ramp, grey, text: read("--st-text-color"), background: read("--st-background-color"), font: read("--st-font") }
}

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.trim().slice(at, at + 2), 16))
const pixel = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0 // as canvases hold it

// How many rows of each block fall. Python tells that only of sparsities between two steps of a slider.
function fallen(view) {
  if (!view.sliders || (view.now && asSaid(view))) return view.now
  return view.blocks.map((name, block) => (view.counts ? view.counts[Math.round(100 * holding(view, "gates", name))][block] : 0))
}

// The units in the order of their cells.
function ordered(view, dropped) {
  const units = Array.from({ length: view.hidden }, (_, unit) => unit)
  if (view.order === "index") return units
  const keeping = new Uint8Array(view.hidden)
  if (view.order === "agreement")
    dropped.forEach((count, block) =>
      units.forEach((unit) => (keeping[unit] += view.ranks[block * view.hidden + unit] >= count ? 1 : 0)))
  return units.sort((a, b) => keeping[a] - keeping[b] || view.units[a] - view.units[b] || a - b)
}

function draw(view) {
  const wide = view.canvas.parentElement.clientWidth
  view.canvas.hidden = view.foot.hidden = !view.hidden
  view.save.hidden = view.beside
  if (!wide || !view.hidden) return
  view.canvas.setAttribute("aria-label", view.alt)
  const scale = window.devicePixelRatio || 1, { canvas, hidden, palette } = view
  const across = wide < 520 && !view.beside ? 2 : 4, columns = Math.ceil(Math.sqrt(hidden)), rows = Math.ceil(hidden / columns)
  const room = (wide - (across - 1) * GAP) / across
  const seen = view.sliders && across > 2 ? Math.max(100, (window.innerHeight - ABOVE) / 2 - TITLE - GAP) : LARGEST
  const side = Math.min(room, LARGEST, seen)
  const cell = side * scale < columns ? side / columns : Math.floor(side * scale / columns) / scale
  const tall = TITLE + cell * rows + GAP, high = tall * Math.ceil(view.blocks.length / across)
  view.dropped = fallen(view)
  view.cells = ordered(view, view.dropped)
  view.shape = { across, columns, rows, room, cell, tall }
  canvas.width = Math.round(wide * scale)
  canvas.height = Math.round(high * scale)
  canvas.style.height = `${high}px`
  const context = canvas.getContext("2d")
  context.scale(scale, scale)
  context.imageSmoothingEnabled = false
  const small = new OffscreenCanvas(columns, rows), pen = small.getContext("2d"), image = new ImageData(columns, rows)
  view.blocks.forEach((name, block) => {
    const left = (block % across) * (room + GAP), top = Math.floor(block / across) * tall
    context.fillStyle = palette.text
    context.font = `600 13px ${palette.font}`
    context.fillText(name, left, top + 14)
    const after = left + context.measureText(`${name}  `).width
    context.font = `13px ${palette.font}`
    context.fillText(view.titles[block], after, top + 14)
    paint(view, block, image)
    pen.putImageData(image, 0, 0)
    context.drawImage(small, left, top + TITLE, cell * columns, cell * rows)
    if (cell >= LEAST_LINED) lines(context, palette.background, left, top + TITLE, columns, rows, cell)
    for (const unit of [view.unit, view.hovered]) {
      const at = unit === null ? -1 : view.cells.indexOf(unit)
      if (at >= 0) frame(context, palette, left + (at % columns) * cell, top + TITLE + Math.floor(at / columns) * cell, cell)
    }
  })
  explain(view)
  canvas.dataset.fallen = view.dropped.join(" ")
}

function paint(view, block, image) {
  const { hidden, palette, pinned } = view, start = block * hidden
  const [low, high] = view.ranges[block], middle = view.relative ? view.medians[block] : 1
  const ramp = (pinned ? palette.grey : palette.ramp).map(pixel)
  const [both, onlyPinned, onlyNow] = ["both", "onlyPinned", "onlyNow"].map((name) => pixel(rgb(view.colours[name])))
  const pixels = new Uint32Array(image.data.buffer)
  pixels.fill(0)
  view.cells.forEach((unit, at) => {
    const falls = view.ranks[start + unit] < view.dropped[block], fell = pinned ? !pinned[start + unit] : falls
    if (falls) pixels[at] = fell ? both : onlyNow
    else if (fell) pixels[at] = onlyPinned
    else {
      const share = (view.scores[start + unit] / middle - low) / (high - low || 1)
      pixels[at] = ramp[Math.max(0, Math.min(255, Math.round(255 * share)))]
    }
  })
}

function lines(context, colour, left, top, columns, rows, cell) {
  context.strokeStyle = colour
  context.lineWidth = 1
  context.beginPath()
  for (let column = 1; column < columns; column++) {
    context.moveTo(left + column * cell, top)
    context.lineTo(left + column * cell, top + rows * cell)
  }
  for (let row = 1; row < rows; row++) {
    context.moveTo(left, top + row * cell)
    context.lineTo(left + columns * cell, top + row * cell)
  }
  context.stroke()
}

// In two colours, so that it stands out from cells as dark or as light as either.
function frame(context, { text, background }, left, top, cell) {
  for (const [colour, width] of [[background, 5], [text, 2]]) {
    context.strokeStyle = colour
    context.lineWidth = width
    context.strokeRect(left - 1, top - 1, cell + 2, cell + 2)
  }
}

function explain(view) {
  const { ramp, grey } = view.palette, shown = view.pinned ? grey : ramp
  const stops = [0, 64, 128, 192, 255].map((at) => `rgb(${shown[at]})`).join(",")
  const text = (value) => Number(value.toPrecision(3)).toString()
  const more = view.clipped ? " and more" : ""
  // The first block of each packed weight stands for its four gates.
  const scales = [0, 4].map((block) => {
    const [low, high] = view.ranges[block].map(text)
    return `${view.blocks[block]} to ${view.blocks[block + 3]}: ${low} to ${high}${more}`
  })
  const each = view.shared ? scales.join("; ") : "each block from its lowest to its highest"
  const scale = view.beside ? "from light to heavy" : each
  const { both, onlyPinned, onlyNow } = view.colours
  const swatch = (colour, what) => `<span class="state"><span class="swatch" style="background:${colour}"></span>${what}</span>`
  const states = view.pinned
    ? swatch(both, "falls in both") + swatch(onlyPinned, "only in A") + swatch(onlyNow, "only now")
    : view.masked ? swatch(both, "falls") : ""
  const measure = view.relative ? `${view.measure} over the block's median` : view.measure
  view.legend.innerHTML =
    `<span class="ramp" style="background:linear-gradient(to right,${stops})"></span><span>${measure}, ${scale}</span>${states}`
}

function under(view, event) {
  const { across, columns, rows, room, cell, tall } = view.shape
  const x = event.offsetX, y = event.offsetY
  const column = Math.floor(x / (room + GAP)), row = Math.floor(y / tall), block = row * across + column
  const at = [Math.floor((x - column * (room + GAP)) / cell), Math.floor((y - row * tall - TITLE) / cell)]
  if (column >= across || block >= view.blocks.length || at[0] < 0 || at[0] >= columns || at[1] < 0 || at[1] >= rows) return null
  const index = at[1] * columns + at[0]
  return index < view.hidden ? { unit: view.cells[index], block, x, y } : null
}

function facts(view, unit, block) {
  const at = block * view.hidden + unit, rank = view.ranks[at]
  const value = `${Number(view.scores[at].toPrecision(4))} (${(view.scores[at] / view.medians[block]).toFixed(2)} × median)`
  const falls = view.masked ? (rank < view.dropped[block] ? ", falls" : ", stays") : ""
  return `${view.blocks[block]}, unit ${unit}: ${view.measure} ${value}, rank ${rank + 1} of ${view.hidden}${falls}`
}

function tell(view, unit, place) {
  view.tip.hidden = !place
  if (!place) return
  view.tip.textContent = facts(view, unit, place.block)
  const right = place.x > view.canvas.clientWidth / 2
  view.tip.style.left = right ? "" : `${place.x + 14}px`
  view.tip.style.right = right ? `${view.canvas.clientWidth - place.x + 14}px` : ""
  view.tip.style.top = `${place.y + 14}px`
}

// Arrow keys walk over the cells, Enter selects the unit there, Escape clears the selection.
function walk(view, event, hover) {
  const { columns } = view.shape
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key]
  if (step !== undefined) {
    const from = view.cells.indexOf(view.hovered ?? view.unit ?? view.cells[0])
    const to = Math.max(0, Math.min(view.hidden - 1, from + step))
    hover(view.cells[to], null)
    view.spoken.textContent = view.blocks.map((_, block) => facts(view, view.cells[to], block)).join("; ")
  } else if (event.key === "Enter" && view.hovered !== null) view.select(view.hovered)
  else if (event.key === "Escape") view.select(-1)
  else return
  event.preventDefault()
}
