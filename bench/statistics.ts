/** Numbers of noisy machines: medians and spread. */

/** @param q 0 to 1 */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * q;
  const low = Math.floor(at);
  const high = Math.ceil(at);
  return (sorted[low] as number) + ((sorted[high] as number) - (sorted[low] as number)) * (at - low);
}

export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** Median, and what nine tenths of the values lie above and below. */
export interface Summary {
  median: number;
  low: number;
  high: number;
  min: number;
  max: number;
  samples: number;
}

export function summary(values: readonly number[]): Summary {
  return {
    median: median(values),
    low: quantile(values, 0.1),
    high: quantile(values, 0.9),
    min: Math.min(...values),
    max: Math.max(...values),
    samples: values.length,
  };
}
