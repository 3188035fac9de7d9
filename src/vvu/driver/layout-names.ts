/** Rows of the table in layouts.ts. By themselves, so that the command line lists them and loads nothing else. */
export const LAYOUT_NAMES = ['A', 'B', 'C', 'D', 'S'] as const;
export type LayoutName = (typeof LAYOUT_NAMES)[number];
