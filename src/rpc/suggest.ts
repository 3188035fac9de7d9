/** "Did you mean": the one known word that lies near a mistyped one, or none. */

/** Edits (insert, delete, replace, swap neighbours) from `a` to `b`. Words are short; both are cut at 64 characters. */
export function editDistance(a: string, b: string): number {
  const x = a.slice(0, 64);
  const y = b.slice(0, 64);
  let before: number[] = [];
  let previous = Array.from({ length: y.length + 1 }, (_, j) => j);
  for (let i = 1; i <= x.length; i++) {
    const row = [i];
    for (let j = 1; j <= y.length; j++) {
      let best = Math.min(row[j - 1] + 1, previous[j] + 1, previous[j - 1] + (x[i - 1] === y[j - 1] ? 0 : 1));
      if (i > 1 && j > 1 && x[i - 1] === y[j - 2] && x[i - 2] === y[j - 1]) best = Math.min(best, before[j - 2] + 1);
      row.push(best);
    }
    before = previous;
    previous = row;
  }
  return previous[y.length];
}

/** Same words in another order, or one contains the other: `malloc_bdev_create`, `get_bdev`. */
function sharesWords(a: string, b: string): boolean {
  const words = (s: string) =>
    s
      .split(/[_\-.]/)
      .sort()
      .join(' ');
  return words(a) === words(b);
}

/** The known word nearest to `word`, when it is near enough to be worth saying. */
export function nearest(word: string, known: Iterable<string>): string | undefined {
  const lower = word.toLowerCase();
  const reach = Math.max(1, Math.floor(lower.length / 4));
  let best: string | undefined;
  let bestDistance = reach + 1;
  for (const candidate of known) {
    const distance = sharesWords(lower, candidate) ? 0 : editDistance(lower, candidate);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}
