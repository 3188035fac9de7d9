/** A bar chart without a library: one group a case, one bar a server, thousands of requests a second on a log scale. */
import type { Summary } from './statistics.ts';

interface Group {
  name: string;
  values: Record<string, Summary>;
}

const COLOURS = ['#3366cc', '#999999', '#dc7633', '#2e8b57', '#8e44ad'];
const LEFT = 230;
const WIDTH = 620;
const BAR = 12;

export function chart(groups: readonly Group[]): string {
  const names = [...new Set(groups.flatMap((g) => Object.keys(g.values)))];
  const most = Math.max(...groups.flatMap((g) => Object.values(g.values).map((s) => s.median)), 1000);
  const least = 1000;
  const x = (iops: number) => (Math.log(Math.max(iops, least) / least) / Math.log(most / least)) * WIDTH;
  const parts: string[] = [];
  let y = 40;
  names.forEach((name, i) => {
    parts.push(`<rect x="${LEFT + i * 160}" y="10" width="10" height="10" fill="${COLOURS[i % COLOURS.length]}"/>`);
    parts.push(`<text x="${LEFT + 14 + i * 160}" y="19">${name}</text>`);
  });
  for (const group of groups) {
    parts.push(`<text x="${LEFT - 8}" y="${y + 10}" text-anchor="end">${group.name}</text>`);
    names.forEach((name, i) => {
      const s = group.values[name];
      if (s === undefined) return;
      const colour = COLOURS[i % COLOURS.length];
      parts.push(`<rect x="${LEFT}" y="${y}" width="${x(s.median).toFixed(1)}" height="${BAR - 2}" fill="${colour}"/>`);
      const [a, b] = [LEFT + x(s.low), LEFT + x(s.high)];
      parts.push(`<line x1="${a.toFixed(1)}" x2="${b.toFixed(1)}" y1="${y + 5}" y2="${y + 5}" stroke="black"/>`);
      parts.push(`<text x="${(b + 4).toFixed(1)}" y="${y + 9}" font-size="9">${(s.median / 1000).toFixed(1)}k</text>`);
      y += BAR;
    });
    y += 6;
  }
  const style = 'font-family="sans-serif" font-size="11"';
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${LEFT + WIDTH + 60}" height="${y + 10}" ${style}>\n${parts.join('\n')}\n</svg>\n`;
}
