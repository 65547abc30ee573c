/**
 * A roofline plot (Williams, Waterman & Patterson 2009) as SVG: operations a second against operations a byte, both
 * logarithmic. Under the slope memory is the limit, under the level part arithmetic. Points are numbered; a list beside
 * the plot has their names.
 */

export interface Roofline {
  /** Of copies beyond the caches, and the best of smaller ones. */
  readonly copyGBps: number;
  readonly cacheGBps: number;
  readonly peakGflops: number;
  readonly points: readonly {
    readonly name: string;
    /** Operations a byte, above 0. */
    readonly intensity: number;
    readonly gflops: number;
    /** Of what bounds it, in percent. */
    readonly share: number;
  }[];
}

/** The plot's frame within the picture, in pixels. */
export const frame = { left: 64, top: 48, width: 620, height: 460 } as const;
const lineHeight = 14;
const characterWidth = 6.6; // of the list, at most

interface Axis {
  readonly decades: readonly number[];
  /** Pixels of a value. */
  at(value: number): number;
}

/** Whole decades around the values, over `length` pixels from `start` on (upwards where `length` is negative). */
function axis(values: readonly number[], start: number, length: number): Axis {
  const first = Math.floor(Math.log10(Math.min(...values)));
  const last = Math.max(first + 1, Math.ceil(Math.log10(Math.max(...values))));
  return {
    decades: Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i)),
    at: (value) => start + (length * (Math.log10(value) - first)) / (last - first),
  };
}

function escaped(text: string): string {
  const entities: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  // biome-ignore lint/suspicious/noControlCharactersInRegex: XML has no way to write these
  return text.replace(/[\x00-\x08\x0b-\x1f]/g, "?").replace(/[&<>"]/g, (character) => entities[character] ?? "");
}

const px = (value: number) => value.toFixed(1);

function text(x: number, y: number, content: string, attributes = ""): string {
  return `<text x="${px(x)}" y="${px(y)}"${attributes}>${escaped(content)}</text>`;
}

interface Box {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

const overlaps = (a: Box, b: Box) =>
  a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;

/** A place for a number beside its point that hides no other number and no point: nearby if there is one. */
function placeNumber(x: number, y: number, width: number, taken: readonly Box[]): Box {
  const height = 11;
  const boxAt = (distance: number, turn: number): Box => ({
    x: x + distance * Math.cos(turn) - width / 2,
    y: y + distance * Math.sin(turn) - height / 2,
    width,
    height,
  });
  for (let distance = 11; distance < 90; distance += 5) {
    for (let n = 0; n < 16; n++) {
      const box = boxAt(distance, (n * Math.PI) / 8);
      if (!taken.some((other) => overlaps(box, other))) return box;
    }
  }
  return boxAt(11, 0);
}

/** The picture. Points without operations are left out. */
export function rooflineSvg(title: string, { copyGBps, cacheGBps, peakGflops, points: given }: Roofline): string {
  const points = given.filter(({ intensity, gflops }) => intensity > 0 && gflops > 0);
  const ridge = peakGflops / copyGBps;
  const { left, top, width, height } = frame;
  const [right, bottom] = [left + width, top + height];
  const x = axis(
    [peakGflops / Math.max(copyGBps, cacheGBps) / 10, ridge * 10, ...points.map(({ intensity }) => intensity)],
    left,
    width,
  );
  const y = axis([peakGflops / 100, peakGflops, ...points.map(({ gflops }) => gflops)], bottom, -height);
  const [first = 1, last = 1] = [x.decades[0], x.decades.at(-1)];
  const lowest = y.decades[0] ?? 1;

  const lines: string[] = [];
  for (const value of x.decades) {
    lines.push(`<path class="grid" d="M${px(x.at(value))} ${top}V${bottom}"/>`);
    lines.push(text(x.at(value), bottom + 16, String(Number(value.toPrecision(1))), ' text-anchor="middle"'));
  }
  for (const value of y.decades) {
    lines.push(`<path class="grid" d="M${left} ${px(y.at(value))}H${right}"/>`);
    lines.push(text(left - 6, y.at(value) + 4, String(Number(value.toPrecision(1))), ' text-anchor="end"'));
  }
  /** A slope begins where it enters the frame. */
  const slope = (GBps: number) => {
    const from = Math.max(first, lowest / GBps);
    return `M${px(x.at(from))} ${px(y.at(from * GBps))}L${px(x.at(peakGflops / GBps))} ${px(y.at(peakGflops))}`;
  };
  lines.push(`<path class="roof" d="${slope(copyGBps)}H${px(x.at(last))}"/>`);
  if (cacheGBps > copyGBps) lines.push(`<path class="roof cache" d="${slope(cacheGBps)}"/>`);
  const copy = `copy ${copyGBps.toPrecision(3)} GB/s (within caches, dashed: ${cacheGBps.toPrecision(3)})`;
  const roofs = `${copy}, multiply-add ${peakGflops.toPrecision(3)} GFLOP/s`;

  const centres = points.map(({ intensity, gflops }) => ({ x: x.at(intensity), y: y.at(gflops) }));
  const taken: Box[] = centres.map((at) => ({ x: at.x - 4, y: at.y - 4, width: 8, height: 8 }));
  points.forEach(({ name }, i) => {
    const at = centres[i] ?? { x: 0, y: 0 };
    const number = String(i + 1);
    const box = placeNumber(at.x, at.y, 7 * number.length + 2, taken);
    taken.push(box);
    const [cx, cy] = [box.x + box.width / 2, box.y + box.height / 2];
    if (Math.hypot(cx - at.x, cy - at.y) > 12) {
      lines.push(`<path class="lead" d="M${px(at.x)} ${px(at.y)}L${px(cx)} ${px(cy)}"/>`);
    }
    lines.push(`<circle cx="${px(at.x)}" cy="${px(at.y)}" r="3.5"><title>${escaped(name)}</title></circle>`);
    lines.push(text(cx, cy + 4, number, ' class="number" text-anchor="middle"'));
  });
  const list = points.map(
    ({ name, gflops, share }, i) =>
      `${i + 1}  ${name}: ${gflops.toPrecision(3)} GFLOP/s, ${share.toPrecision(2)} % of its bound`,
  );
  list.forEach((line, i) => {
    lines.push(text(right + 24, top + 10 + i * lineHeight, line, ' class="number"'));
  });
  const size = {
    width: Math.ceil(right + 48 + characterWidth * Math.max(0, ...list.map((line) => line.length))),
    height: Math.max(bottom + 48, top + 20 + points.length * lineHeight),
  };
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${size.width}" height="${size.height}" viewBox="0 0 ${size.width} ${size.height}">
<style>text { font: 12px sans-serif } .number { font-size: 11px } .grid { stroke: #ddd } .roof { stroke: #b30; stroke-width: 2; fill: none } .cache { stroke-width: 1; stroke-dasharray: 4 4 } .lead { stroke: #888; stroke-width: .5 } circle { fill: #06c }</style>
<rect width="100%" height="100%" fill="#fff"/>
${text(left, 20, title, ' font-weight="bold"')}
${text(left, 38, `roof: ${roofs}`, ' fill="#b30"')}
${lines.join("\n")}
${text(left + width / 2, bottom + 36, "operations a byte", ' text-anchor="middle"')}
${text(16, top + height / 2, "GFLOP/s", ` text-anchor="middle" transform="rotate(-90 16 ${top + height / 2})"`)}
</svg>
`;
}
