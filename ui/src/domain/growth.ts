const DAY_MS = 86_400_000;
const ENOUGH_MS = 600_000;

/**
 * How much a series grows a day, by the line of least squares through its points.
 *
 * at: Unix ms. Answers null while there is less than ten minutes to judge by.
 */
export function growthPerDay(
  at: readonly number[],
  values: readonly (number | null)[],
): number | null {
  const points = at
    .map((x, n) => [x, values[n] ?? null] as const)
    .filter((point): point is readonly [number, number] => point[1] !== null);
  const first = points[0];
  const last = points.at(-1);
  if (first === undefined || last === undefined || last[0] - first[0] < ENOUGH_MS) return null;
  const meanX = points.reduce((sum, [x]) => sum + x, 0) / points.length;
  const meanY = points.reduce((sum, [, y]) => sum + y, 0) / points.length;
  let upper = 0;
  let lower = 0;
  for (const [x, y] of points) {
    upper += (x - meanX) * (y - meanY);
    lower += (x - meanX) ** 2;
  }
  return lower === 0 ? null : (upper / lower) * DAY_MS;
}
