// The time-line of one system: for each lane the life of the generator in the backend and the moments
// at which it sent (above), and the moments at which the page received (below), joined by a line.

const SPAN = 12_000; // ms from the left edge to now
const SENT = 0.42; // where the two rows are in a lane, as a share of its height
const ARRIVED = 0.86;

/** Milliseconds since 1970 with fractions, on the clock that Date.now() and the backend use. */
export const now = () => performance.timeOrigin + performance.now();

export class Timeline {
  constructor(canvas, lanes) {
    this.canvas = canvas;
    this.lanes = lanes; // [{ color, marks, lives, outages }]: marks of the page, lives of the generators
    new ResizeObserver(() => this.#fit()).observe(canvas);
  }

  #fit() {
    const { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = clientWidth * devicePixelRatio;
    this.canvas.height = clientHeight * devicePixelRatio;
    this.draw();
  }

  /** Whether there is anything left to move. */
  get active() {
    const horizon = now() - SPAN;
    return this.lanes.some(({ marks, lives }) =>
      marks.at(-1)?.arrived > horizon || lives.some((life) => !(life.ended < horizon)));
  }

  draw() {
    const context = this.canvas.getContext("2d");
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const style = getComputedStyle(this.canvas);
    const color = (name) => style.getPropertyValue(`--${name}`);
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, width, height);
    const end = now();
    const x = (time) => width - ((end - time) / SPAN) * width;
    for (let second = Math.ceil((end - SPAN) / 1000); second * 1000 < end; second++) {
      line(context, [[x(second * 1000), 0], [x(second * 1000), height]], color("line"), 1, 0.45);
    }
    const lanes = this.lanes.filter((lane) => !lane.hidden);
    lanes.forEach((lane, index) => {
      const each = height / 2;
      drawLane(context, lane, { x, width, top: index * each, height: each, start: end - SPAN, end, color });
    });
  }
}

function drawLane(context, lane, view) {
  const { x, width, top, height, start, end, color } = view;
  const sent = top + SENT * height;
  const arrived = top + ARRIVED * height;
  lane.marks.splice(0, lane.marks.findLastIndex((mark) => mark.arrived < start - SPAN) + 1);
  lane.lives.splice(0, lane.lives.findLastIndex((life) => life.ended < start) + 1);

  line(context, [[0, arrived + 0.5], [width, arrived + 0.5]], color("line"), 1);
  for (const { from, to } of lane.outages) {
    line(context, [[x(from), arrived], [x(to ?? end), arrived]], color("bad"), 3, 0.6);
  }
  for (const life of lane.lives) {
    line(context, [[x(life.started), sent], [x(life.ended ?? end), sent]], color("life"), 5);
    if (life.ended) square(context, x(life.ended), sent, color(life.lost ? "bad" : "good"));
  }
  for (const mark of lane.marks) {
    const at = x(mark.arrived);
    if (mark.kind === "stop") {
      context.setLineDash([2, 3]);
      line(context, [[at, top + 16], [at, top + height]], color("text"), 1);
      context.setLineDash([]);
    } else if (mark.kind === "error") cross(context, at, arrived, color("bad"));
    else if (mark.kind === "heartbeat") ring(context, at, arrived, color("quiet"));
    else if (mark.kind === "end") line(context, [[at, arrived - 7], [at, arrived + 4]], color("good"), 3);
    else {
      if (mark.sent) line(context, [[x(mark.sent), sent], [at, arrived]], color(lane.color), 1, mark.replayed ? 0.25 : 0.7);
      dot(context, at, arrived, color(lane.color));
    }
  }
}

function line(context, points, color, width, alpha = 1) {
  context.globalAlpha = alpha;
  context.strokeStyle = color;
  context.lineWidth = width;
  context.beginPath();
  points.forEach(([x, y], index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.stroke();
  context.globalAlpha = 1;
}

function dot(context, x, y, color) {
  context.fillStyle = color;
  context.beginPath();
  context.arc(x, y, 2.5, 0, 2 * Math.PI);
  context.fill();
}

function ring(context, x, y, color) {
  context.strokeStyle = color;
  context.lineWidth = 1.25;
  context.beginPath();
  context.arc(x, y, 2, 0, 2 * Math.PI);
  context.stroke();
}

function square(context, x, y, color) {
  context.fillStyle = color;
  context.fillRect(x - 3, y - 6, 3, 12);
}

function cross(context, x, y, color) {
  line(context, [[x - 5, y - 5], [x + 5, y + 5]], color, 2);
  line(context, [[x - 5, y + 5], [x + 5, y - 5]], color, 2);
}
