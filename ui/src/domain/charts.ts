/** Lines over time as an ECharts option in our look. */
import type { EChartsCoreOption } from "echarts/core";

/** So few values are shown as points too: a line of one would not be seen. */
const FEW = 8;

interface Line {
  readonly name: string;
  /** A CSS variable. */
  readonly color: string;
  readonly values: readonly (number | null)[];
  readonly stack?: boolean;
  /** Drawn as what lies around another line. */
  readonly thin?: boolean;
}

/** What a chart shows. */
export interface Lines {
  /** Unix ms. */
  readonly at: readonly number[];
  /** The first lies over the others. */
  readonly lines: readonly Line[];
  readonly time: (ms: number) => string;
  readonly exact: (ms: number) => string;
  readonly value: (value: number) => string;
  /** Whether the axis may begin above 0. */
  readonly loose?: boolean;
  /** Where the time axis begins and ends, Unix ms; default: with the values. */
  readonly span?: readonly [number, number];
  /** Whether values are counts: the axis has no fractions. */
  readonly whole?: boolean;
}

interface Point {
  readonly axisValue: number;
  readonly marker: string;
  readonly seriesName: string;
  readonly seriesIndex: number;
  readonly value: readonly [number, number | null];
}

/** As an option. color: the theme's value of a CSS variable. */
export function chartOf(chart: Lines, color: (name: string) => string): EChartsCoreOption {
  return {
    animation: false,
    grid: { left: 8, right: 12, top: 12, bottom: 4, containLabel: true },
    textStyle: { fontFamily: "inherit" },
    tooltip: {
      trigger: "axis",
      renderMode: "richText", // HTML with styles of its own is not allowed by the page's policy
      backgroundColor: color("--surface"),
      borderColor: color("--line"),
      textStyle: { color: color("--ink"), fontSize: 12 },
      formatter: (points: readonly Point[]) => {
        const first = points[0];
        if (first === undefined) return "";
        const rows = points.map(
          (point) =>
            `${point.seriesName}  ${point.value[1] === null ? "–" : chart.value(point.value[1])}`,
        );
        return [chart.exact(first.axisValue), ...rows].join("\n");
      },
    },
    xAxis: {
      type: "time",
      min: chart.span?.[0],
      max: chart.span?.[1],
      axisLine: { lineStyle: { color: color("--line") } },
      axisTick: { show: false },
      splitLine: { show: false },
      axisLabel: {
        color: color("--ink-2"),
        hideOverlap: true,
        formatter: (ms: number) => chart.time(ms),
      },
    },
    yAxis: {
      type: "value",
      scale: chart.loose ?? false,
      splitNumber: 3,
      minInterval: chart.whole ? 1 : undefined,
      splitLine: { lineStyle: { color: color("--line") } },
      axisLabel: { color: color("--ink-2"), formatter: (value: number) => chart.value(value) },
    },
    series: chart.lines.map((line, n) => ({
      name: line.name,
      z: chart.lines.length - n,
      type: "line",
      showSymbol: line.values.filter((value) => value !== null).length < FEW,
      symbolSize: 5,
      connectNulls: false,
      lineStyle: line.thin
        ? { width: 1, type: "dotted", color: color(line.color) }
        : { width: 1.6, color: color(line.color) },
      itemStyle: { color: color(line.color) },
      areaStyle: line.stack ? { color: color(line.color), opacity: 0.16 } : undefined,
      stack: line.stack ? "all" : undefined,
      data: chart.at.map((at, m) => [at, line.values[m] ?? null]),
    })),
  };
}
