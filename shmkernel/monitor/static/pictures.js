// Pictures on a canvas: a line, a heat map, an image, a histogram. Changed values are highlighted for a moment.
import { bars, barAt } from "./histogram.js";
import { brief, colour } from "./texts.js";

const FADE = 900; // milliseconds
const LEFT = 56; // pixels for the numbers at the axes, or more if they are wider
const BELOW = 18;
const RIGHT = 76;
const CROWD = 0.2; // if a larger share of the values changes at once, none is highlighted
const GREY = "rgb(128,128,128)"; // NaN
const HEIGHT = 300; // same as in monitor.css
const PALETTE = Array.from({ length: 256 }, (_, at) => colour(at / 255).map(Math.round));
const CALM = window.matchMedia("(prefers-reduced-motion: reduce)");

/** Draws frames of one segment, and remembers when each value changed. */
export class Picture {
  /** @param {HTMLCanvasElement} canvas @param {HTMLElement} reading shows the value under the pointer */
  constructor(canvas, reading) {
    this.canvas = canvas;
    this.reading = reading;
    /** @type {import("./texts.js").Frame | null} */ this.frame = null;
    /** @type {Float64Array} */ this.moved = new Float64Array(0); // when each cell changed
    this.share = 0; // share of the cells that changed last
    this.waiting = 0;
    this.ink = "";
    /** @type {[number, number] | null} */ this.point = null;
    this.field = { x: 0, y: 0, width: 1, height: 1 };
    canvas.addEventListener("pointermove", (event) => {
      this.point = [event.offsetX, event.offsetY];
      this.read();
    });
    canvas.addEventListener("pointerleave", () => {
      this.point = null;
      this.read();
    });
  }

  /** @param {import("./texts.js").Frame} frame @returns {number} the width of a map or image of full height */
  static width(frame) {
    return Math.ceil(LEFT + (HEIGHT - BELOW - 4) * proportion(frame) + RIGHT);
  }

  /** @param {import("./texts.js").Frame} frame @param {boolean} same whether it shows the same part of the same segment */
  show(frame, same) {
    const before = this.frame;
    const count = frame.form === "line" || frame.form === "bars" ? frame.dots : frame.w * frame.h;
    const now = performance.now();
    if (!same || !before || before.form !== frame.form || this.moved.length !== count) {
      this.moved = new Float64Array(count).fill(-FADE);
      this.share = 0;
    } else {
      let changed = 0;
      for (let at = 0; at < count; at += 1) {
        if (differs(before, frame, at)) {
          this.moved[at] = now;
          changed += 1;
        }
      }
      this.share = changed > CROWD * count ? 0 : changed / count;
    }
    this.frame = frame;
    this.draw();
  }

  /** Draw again if the theme has changed; no event reports that. */
  suit() {
    if (this.frame && getComputedStyle(this.canvas).color !== this.ink) this.draw();
  }

  /** Draw, and repeat while a highlight fades. */
  draw() {
    cancelAnimationFrame(this.waiting);
    const frame = this.frame;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!frame || !width || !height) return;
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const pen = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    const style = getComputedStyle(this.canvas);
    pen.scale(scale, scale);
    pen.font = `11px ${style.fontFamily}`;
    pen.fillStyle = pen.strokeStyle = this.ink = style.color;
    const accent = style.getPropertyValue("--shm-accent") || "#1976d2";
    const now = performance.now();
    const sides = margins(pen, frame);
    if (frame.form === "bars") this.field = bars(pen, frame, width, height, accent, sides[0]);
    else if (frame.form === "line") this.line(pen, frame, width, height, sides, accent, now);
    else this.cells(pen, frame, width, height, sides, style.color, now);
    this.read();
    const newest = this.share ? this.moved.reduce((a, b) => Math.max(a, b), 0) : 0;
    if (now - newest < FADE && !CALM.matches) this.waiting = requestAnimationFrame(() => this.draw());
    this.canvas.dataset.ink = this.ink;
    this.canvas.dataset.drawn = String(Number(this.canvas.dataset.drawn || 0) + 1);
  }

  /**
   * @param {CanvasRenderingContext2D} pen @param {import("./texts.js").Frame} frame
   * @param {number} width @param {number} height @param {[number, number]} sides
   * @param {string} ink @param {number} now
   */
  cells(pen, frame, width, height, [left, right], ink, now) {
    const image = frame.form === "image";
    const ratio = proportion(frame);
    const room = { width: width - left - right, height: height - BELOW - 4 };
    const wide = Math.min(room.width, room.height * ratio);
    const field = (this.field = { x: left, y: 4, width: wide, height: wide / ratio });
    const raw = new OffscreenCanvas(frame.w, frame.h);
    const brush = /** @type {OffscreenCanvasRenderingContext2D} */ (raw.getContext("2d"));
    brush.putImageData(paint(frame), 0, 0);
    pen.imageSmoothingEnabled = image && frame.w > wide / 4;
    pen.drawImage(raw, field.x, field.y, field.width, field.height);
    this.glow(pen, frame, field, now);
    const [cell, tall] = [field.width / frame.w, field.height / frame.h];
    if (!image && cell > 34 && tall > 14) this.numbers(pen, frame, field, cell, tall);
    pen.fillStyle = ink;
    pen.textBaseline = "top";
    pen.textAlign = "left";
    pen.fillText("0", field.x, field.y + field.height + 4);
    pen.textAlign = "right";
    pen.fillText(String(frame.width - 1), field.x + field.width, field.y + field.height + 4);
    pen.fillText("0", field.x - 5, field.y);
    pen.textBaseline = "bottom";
    if (frame.height > 1) pen.fillText(String(frame.height - 1), field.x - 5, field.y + field.height);
    pen.textAlign = "center";
    title(pen, "column", field.width, field.x + field.width / 2, field.y + field.height + 15);
    pen.save();
    pen.translate(field.x - 6, field.y + field.height / 2);
    pen.rotate(-Math.PI / 2);
    title(pen, "row", field.height, 0, 0);
    pen.restore();
    if (!image) scale(pen, field.x + field.width + 10, field.y, field.height, frame, ink);
  }

  /**
   * @param {CanvasRenderingContext2D} pen @param {import("./texts.js").Frame} frame
   * @param {{x: number, y: number, width: number, height: number}} field @param {number} now
   */
  glow(pen, frame, field, now) {
    if (!this.share) return;
    const strength = 0.25 + 0.65 * (1 - this.share); // weaker if much of the picture changes
    const [cell, tall] = [field.width / frame.w, field.height / frame.h];
    for (let at = 0; at < this.moved.length; at += 1) {
      const left = 1 - (now - this.moved[at]) / FADE;
      if (left <= 0) continue;
      pen.fillStyle = `rgba(255, 64, 96, ${(CALM.matches ? 1 : left) * strength})`;
      pen.fillRect(field.x + (at % frame.w) * cell, field.y + Math.floor(at / frame.w) * tall, cell + 0.5, tall + 0.5);
    }
  }

  /**
   * @param {CanvasRenderingContext2D} pen @param {import("./texts.js").Frame} frame
   * @param {{x: number, y: number}} field @param {number} cell @param {number} tall
   */
  numbers(pen, frame, field, cell, tall) {
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (let at = 0; at < frame.w * frame.h; at += 1) {
      const value = frame.data.getFloat32(at * 4, true);
      const [r, g, b] = colour((value - frame.low) / (frame.high - frame.low || 1));
      pen.fillStyle = 0.3 * r + 0.6 * g + 0.1 * b > 130 ? "#000" : "#fff";
      const [x, y] = [field.x + ((at % frame.w) + 0.5) * cell, field.y + (Math.floor(at / frame.w) + 0.5) * tall];
      pen.fillText(fitting(pen, value, cell - 4), x, y);
    }
  }

  /**
   * @param {CanvasRenderingContext2D} pen @param {import("./texts.js").Frame} frame
   * @param {number} width @param {number} height @param {[number, number]} sides
   * @param {string} accent @param {number} now
   */
  line(pen, frame, width, height, [left, right], accent, now) {
    const field = (this.field = { x: left, y: 8, width: width - left - right, height: height - BELOW - 14 });
    const span = frame.high - frame.low || 1;
    const bottom = field.y + field.height;
    const still = frame.high === frame.low ? field.height / 2 : 0; // constant values: a line in the middle
    /** @param {number} value */
    const y = (value) => bottom - still - (Math.min(frame.high, Math.max(frame.low, value)) - frame.low) / span * field.height;
    /** @param {number} at */
    const x = (at) => field.x + (frame.dots > 1 ? at / (frame.dots - 1) : 0.5) * field.width;
    const ink = pen.fillStyle;
    pen.globalAlpha = 0.15;
    pen.beginPath();
    for (const share of [0, 0.5, 1]) {
      pen.moveTo(field.x, bottom - share * field.height);
      pen.lineTo(field.x + field.width, bottom - share * field.height);
    }
    pen.stroke();
    pen.globalAlpha = 1;
    pen.strokeStyle = pen.fillStyle = accent;
    pen.lineWidth = 1.5;
    pen.lineJoin = "round";
    if (frame.joined) envelope(pen, frame, x, y);
    stroke(pen, frame, x, y);
    this.sparks(pen, frame, x, y, now);
    pen.fillStyle = ink;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    if (frame.high > frame.low) pen.fillText(brief(frame.high), field.x - 6, field.y);
    pen.fillText(brief(frame.low), field.x - 6, frame.high > frame.low ? bottom : y(frame.low));
    pen.textBaseline = "top";
    pen.fillText(String(frame.width - 1), field.x + field.width, bottom + 6);
    pen.textAlign = "left";
    pen.fillText("0", field.x, bottom + 6);
    pen.textAlign = "center";
    title(pen, "index", field.width, field.x + field.width / 2, bottom + 6);
  }

  /**
   * @param {CanvasRenderingContext2D} pen @param {import("./texts.js").Frame} frame
   * @param {(at: number) => number} x @param {(value: number) => number} y @param {number} now
   */
  sparks(pen, frame, x, y, now) {
    if (!this.share) return;
    const size = Math.min(4, Math.max(1.5, 300 / frame.dots));
    for (let at = 0; at < frame.dots; at += 1) {
      const left = 1 - (now - this.moved[at]) / FADE;
      if (left <= 0) continue;
      const [low, high] = ends(frame, at);
      if (Number.isNaN(low)) continue;
      pen.fillStyle = `rgba(255, 64, 96, ${(CALM.matches ? 1 : left) * (0.35 + 0.65 * (1 - this.share))})`;
      pen.fillRect(x(at) - size / 2, y(high) - size / 2, size, y(low) - y(high) + size);
    }
  }

  /** Show the value under the pointer. */
  read() {
    const { frame, point, field } = this;
    this.reading.textContent = "";
    if (!frame || !point) return;
    const [across, down] = [(point[0] - field.x) / field.width, (point[1] - field.y) / field.height];
    if (across < 0 || across > 1 || down < 0 || down > 1) return;
    this.reading.textContent = frame.form === "bars" ? barAt(frame, across) : frame.form === "line" ? reading1(frame, across) : reading2(frame, across, down);
  }
}

/**
 * @param {CanvasRenderingContext2D} pen @param {import("./texts.js").Frame} frame
 * @returns {[number, number]} room for the numbers at the left and at the right of a picture
 */
function margins(pen, frame) {
  const range = Math.max(pen.measureText(brief(frame.low)).width, pen.measureText(brief(frame.high)).width);
  if (frame.form === "bars") return [Math.max(LEFT, pen.measureText((frame.most ?? 0).toLocaleString("en")).width + 10), 10];
  if (frame.form === "line") return [Math.max(LEFT, range + 10), 10];
  const rows = pen.measureText(String(frame.height - 1)).width;
  return [Math.max(LEFT, rows + 9), frame.form === "image" ? 8 : Math.max(RIGHT, range + 26)];
}

/**
 * @param {CanvasRenderingContext2D} pen @param {string} name of an axis @param {number} room the axis's length
 * @param {number} x @param {number} y
 */
export function title(pen, name, room, x, y) {
  pen.globalAlpha = 0.7;
  if (room > 160) pen.fillText(name, x, y);
  pen.globalAlpha = 1;
}

/** @param {CanvasRenderingContext2D} pen @param {number} value @param {number} room @returns {string} the longest text that fits */
function fitting(pen, value, room) {
  const some = [brief(value), Number.isInteger(value) ? "" : String(Number(value.toPrecision(3))), value.toExponential(1), value.toExponential(0)];
  return some.find((text) => text && pen.measureText(text).width < room) ?? "";
}

/** @param {import("./texts.js").Frame} frame @returns {number} width by height, not too far from a square */
function proportion(frame) {
  return Math.min(4, Math.max(1 / 3, frame.width / frame.height));
}

/** @param {import("./texts.js").Frame} frame @param {number} at @returns {[number, number]} */
function ends(frame, at) {
  const low = frame.data.getFloat64(at * 8, true);
  return [low, frame.joined ? frame.data.getFloat64((frame.dots + at) * 8, true) : low];
}

/**
 * @param {import("./texts.js").Frame} a @param {import("./texts.js").Frame} b
 * @param {number} at @returns {boolean}
 */
function differs(a, b, at) {
  if (b.form === "bars") return false;
  if (b.form === "line") {
    const [[low, high], [low2, high2]] = [ends(a, at), ends(b, at)];
    return !Object.is(low, low2) || !Object.is(high, high2);
  }
  if (b.form === "heat") return a.data.getUint32(at * 4) !== b.data.getUint32(at * 4);
  return [0, 1, 2].some((part) => a.data.getUint8(at * 3 + part) !== b.data.getUint8(at * 3 + part));
}

/** @param {import("./texts.js").Frame} frame @returns {ImageData} */
function paint(frame) {
  const found = new ImageData(frame.w, frame.h);
  const span = frame.high - frame.low || 1;
  for (let at = 0; at < frame.w * frame.h; at += 1) {
    const value = frame.form === "image" ? 0 : frame.data.getFloat32(at * 4, true);
    const rgb = frame.form === "image"
      ? [0, 1, 2].map((part) => frame.data.getUint8(at * 3 + part))
      : Number.isNaN(value) ? [128, 128, 128] : PALETTE[Math.round(Math.min(1, Math.max(0, (value - frame.low) / span)) * 255)];
    found.data.set([...rgb, 255], at * 4);
  }
  return found;
}

/**
 * @param {CanvasRenderingContext2D} pen @param {number} x @param {number} y @param {number} height
 * @param {import("./texts.js").Frame} frame @param {string} ink
 */
function scale(pen, x, y, height, frame, ink) {
  const gaps = Array.from({ length: frame.w * frame.h }, (_, at) => Number.isNaN(frame.data.getFloat32(at * 4, true)));
  pen.textAlign = "left";
  pen.textBaseline = "top";
  if (gaps.includes(true)) {
    pen.fillStyle = GREY;
    pen.fillRect(x, y + height + 6, 8, 8);
    pen.fillStyle = ink;
    pen.fillText("NaN", x + 12, y + height + 4);
  }
  if (!gaps.includes(false)) return;
  const steps = frame.high > frame.low ? 40 : 1;
  for (let at = 0; at < steps; at += 1) {
    pen.fillStyle = `rgb(${colour(steps > 1 ? 1 - at / (steps - 1) : 0).map(Math.round).join(",")})`;
    pen.fillRect(x, y + (at * height) / steps, 8, height / steps + 0.5);
  }
  pen.fillStyle = ink;
  if (steps > 1) pen.fillText(brief(frame.high), x + 12, y);
  pen.textBaseline = "bottom";
  pen.fillText(brief(frame.low), x + 12, y + height);
}

/**
 * @param {CanvasRenderingContext2D} pen @param {import("./texts.js").Frame} frame
 * @param {(at: number) => number} x @param {(value: number) => number} y
 */
function envelope(pen, frame, x, y) {
  pen.globalAlpha = 0.35;
  for (let at = 0; at < frame.dots; at += 1) {
    const [low, high] = ends(frame, at);
    if (!Number.isNaN(low)) pen.fillRect(x(at) - 0.75, y(high), 1.5, Math.max(1, y(low) - y(high)));
  }
  pen.globalAlpha = 1;
}

/**
 * @param {CanvasRenderingContext2D} pen @param {import("./texts.js").Frame} frame
 * @param {(at: number) => number} x @param {(value: number) => number} y
 */
function stroke(pen, frame, x, y) {
  let broken = true;
  pen.beginPath();
  for (let at = 0; at < frame.dots; at += 1) {
    const [low, high] = ends(frame, at);
    if (Number.isNaN(low)) {
      broken = true;
      continue;
    }
    if (broken) pen.moveTo(x(at), y((low + high) / 2));
    pen.lineTo(x(at), y((low + high) / 2));
    broken = false;
  }
  pen.stroke();
  if (frame.dots > 60) return;
  for (let at = 0; at < frame.dots; at += 1) {
    const [low] = ends(frame, at);
    pen.beginPath();
    if (!Number.isNaN(low)) pen.arc(x(at), y(low), 2.5, 0, 7);
    pen.fill();
  }
}

/** @param {import("./texts.js").Frame} frame @param {number} across @returns {string} */
function reading1(frame, across) {
  const at = Math.min(frame.dots - 1, Math.round(across * (frame.dots - 1)));
  const [low, high] = ends(frame, at);
  if (!frame.joined) return `[${at}] = ${brief(low)}`;
  const [first, next] = [at, at + 1].map((edge) => Math.floor((edge * frame.width) / frame.dots));
  return `[${first}:${next}] from ${brief(low)} to ${brief(high)}`;
}

/** @param {import("./texts.js").Frame} frame @param {number} across @param {number} down @returns {string} */
function reading2(frame, across, down) {
  const column = Math.min(frame.w - 1, Math.floor(across * frame.w));
  const row = Math.min(frame.h - 1, Math.floor(down * frame.h));
  const at = row * frame.w + column;
  const place = [[row, frame.height, frame.h], [column, frame.width, frame.w]]
    .map(([index, total, count]) => Math.floor(((2 * index + 1) * total) / (2 * count)));
  if (frame.form === "heat") return `[${place}] = ${brief(frame.data.getFloat32(at * 4, true))}`;
  return `[${place}] = (${[0, 1, 2].map((part) => frame.data.getUint8(at * 3 + part)).join(", ")})`;
}
