// A histogram on a canvas.
import { title } from "./pictures.js";
import { brief } from "./texts.js";

/**
 * @param {CanvasRenderingContext2D} pen @param {import("./texts.js").Frame} frame
 * @param {number} width @param {number} height @param {string} accent @param {number} left
 * @returns {{x: number, y: number, width: number, height: number}} where the bars are
 */
export function bars(pen, frame, width, height, accent, left) {
  const most = frame.most || 1;
  const top = most.toLocaleString("en");
  const field = { x: left, y: 8, width: width - left - 10, height: height - 32 };
  const ink = pen.fillStyle;
  pen.fillStyle = accent;
  const wide = field.width / frame.dots;
  for (let at = 0; at < frame.dots; at += 1) {
    const tall = (frame.data.getFloat64(at * 8, true) / most) * field.height;
    pen.fillRect(field.x + at * wide, field.y + field.height - tall, Math.max(1, wide - 1), tall);
  }
  pen.fillStyle = ink;
  pen.fillRect(field.x, field.y + field.height, field.width, 1);
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  pen.fillText(top, field.x - 6, field.y);
  pen.fillText("0", field.x - 6, field.y + field.height);
  pen.textBaseline = "top";
  pen.fillText(brief(frame.high), field.x + field.width, field.y + field.height + 6);
  pen.textAlign = "left";
  pen.fillText(brief(frame.low), field.x, field.y + field.height + 6);
  pen.textAlign = "center";
  title(pen, "value", field.width, field.x + field.width / 2, field.y + field.height + 6);
  return field;
}

/** @param {import("./texts.js").Frame} frame @param {number} across @returns {string} */
export function barAt(frame, across) {
  const at = Math.min(frame.dots - 1, Math.floor(across * frame.dots));
  const [from, to] = [at, at + 1].map((edge) => frame.low + ((frame.high - frame.low) * edge) / frame.dots);
  return `${brief(from)} to ${brief(to)}: ${frame.data.getFloat64(at * 8, true).toLocaleString("en")} values`;
}
