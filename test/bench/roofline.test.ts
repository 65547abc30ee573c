/** The roofline plot: well-formed XML, points where their numbers say, names that hold anything. */
import { expect, test } from "vitest";
import { frame, type Roofline, rooflineSvg } from "../../bench/roofline.ts";

const point = (name: string, intensity: number, gflops: number) => ({ name, intensity, gflops, share: 12.5 });
const roofline: Roofline = {
  copyGBps: 10,
  cacheGBps: 40,
  peakGflops: 100,
  points: [point("matvec<q4,none>", 1, 1), point("a & b", 100, 100), point("under the slope", 1, 10)],
};

/** Tags that open and close, entities that XML has. Throws where one does not. */
function elements(svg: string): readonly string[] {
  const open: string[] = [];
  const names: string[] = [];
  const rest = svg.replace(/<(\/?)([a-z]+)((?: [a-zA-Z-]+="[^"<]*")*)(\/?)>/g, (_, close, name, __, empty) => {
    if (close) expect(open.pop()).toBe(name);
    else if (!empty) open.push(name);
    if (!close) names.push(name);
    return "";
  });
  expect(open).toEqual([]);
  expect(rest.replace(/&(amp|lt|gt|quot);/g, "")).not.toMatch(/[<&]/);
  return names;
}

/** Decades of the axes around the roofs: 0.1 to 100 operations a byte, 1 to 100 GFLOP/s. */
const x = (decades: number) => frame.left + (frame.width * decades) / 3;
const y = (decades: number) => frame.top + frame.height * (1 - decades / 2);

test("points and roofs lie where they belong", () => {
  const svg = rooflineSvg("an adapter", roofline);
  expect(elements(svg).filter((name) => name === "circle")).toHaveLength(3);
  const centres = [...svg.matchAll(/<circle cx="([\d.]+)" cy="([\d.]+)"/g)].map((found) => [
    +(found[1] ?? 0),
    +(found[2] ?? 0),
  ]);
  const wanted = [
    [x(1), y(0)],
    [x(3), y(2)],
    [x(1), y(1)],
  ];
  centres.forEach((centre, i) => {
    expect(Math.hypot((centre[0] ?? 0) - (wanted[i]?.[0] ?? 0), (centre[1] ?? 0) - (wanted[i]?.[1] ?? 0))).toBeLessThan(
      0.2,
    );
  });
  const px = (value: number) => value.toFixed(1);
  // From the left edge, 0.1 operations a byte at 10 GB/s, to the ridge at 10; within caches to 2.5.
  expect(svg).toContain(`class="roof" d="M${px(x(0))} ${px(y(0))}L${px(x(2))} ${px(y(2))}H${px(x(3))}"`);
  expect(svg).toContain(`L${px(x(Math.log10(25)))} ${px(y(2))}"`);
});

test("names are escaped, control characters replaced", () => {
  const svg = rooflineSvg('<title> & "quotes"', { ...roofline, points: [point("</svg>\u0000\u001b[1m", 1, 1)] });
  elements(svg);
  expect(svg).toContain("&lt;title&gt; &amp; &quot;quotes&quot;");
  expect(svg).toContain("&lt;/svg&gt;??[1m");
  const width = (name: string) =>
    Number(/ width="(\d+)"/.exec(rooflineSvg("", { ...roofline, points: [point(name, 1, 1)] }))?.[1]);
  expect(width("x".repeat(100)) - width("x")).toBeGreaterThan(99 * 6); // the list beside the plot fits
});

test("many points in one place: no number hides another", () => {
  const points = Array.from({ length: 40 }, (_, i) => point(`kernel ${i}`, 1 + i / 200, 5 + i / 100));
  const svg = rooflineSvg("crowded", { ...roofline, points });
  const numbers = [...svg.matchAll(/<text x="([\d.]+)" y="([\d.]+)" class="number" text-anchor="middle">(\d+)</g)];
  expect(numbers).toHaveLength(40);
  const boxes = numbers.map(([, cx, cy, label]) => ({ x: Number(cx), y: Number(cy), width: 7 * (label?.length ?? 0) }));
  for (const [i, a] of boxes.entries()) {
    for (const b of boxes.slice(i + 1)) {
      expect(Math.abs(a.x - b.x) >= (a.width + b.width) / 2 || Math.abs(a.y - b.y) >= 10.9).toBe(true);
    }
  }
});

test("what computes nothing has no point", () => {
  const svg = rooflineSvg("an adapter", { ...roofline, points: [point("lastRow", 0, 0)] });
  expect(elements(svg)).not.toContain("circle");
});
