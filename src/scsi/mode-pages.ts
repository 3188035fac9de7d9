import type { Lun } from './lun.ts';
import { ModeBit } from './lun-state.ts';

/**
 * Mode pages (SPC-4 7.5, SBC-3 6.4): the bytes of each page once, and which bits of them MODE SELECT may change.
 * Everything else about a page (current, changeable and default values, checks) is computed from these rows.
 */

interface ModeField {
  /** Byte in the page, header included. */
  readonly byte: number;
  readonly mask: number;
  readonly bit: number;
  /** Changeable here; otherwise the bit stays what `bit` says. */
  readonly changeable: (lun: Lun) => boolean;
}

export interface ModePage {
  readonly page: number;
  readonly subpage: number;
  readonly name: string;
  /** The whole page with header; changeable bits zero. */
  readonly bytes: Uint8Array;
  readonly fields: readonly ModeField[];
}

function page(
  code: number,
  name: string,
  length: number,
  values: Record<number, number> = {},
  fields: ModeField[] = [],
): ModePage {
  const bytes = new Uint8Array(length);
  bytes[0] = code;
  bytes[1] = length - 2;
  for (const [at, value] of Object.entries(values)) bytes[Number(at)] = value;
  return { page: code, subpage: 0, name, bytes, fields };
}

function subpage(code: number, sub: number, name: string, length: number): ModePage {
  const bytes = new Uint8Array(length);
  bytes[0] = 0x40 | code; // SPF
  bytes[1] = sub;
  bytes[3] = length - 4;
  return { page: code, subpage: sub, name, bytes, fields: [] };
}

const always = () => true;

/** In the order in which page 3Fh returns them (ascending, SPC-4 6.14.3). */
export const MODE_PAGES: readonly ModePage[] = [
  page(0x01, 'Read-Write Error Recovery', 12),
  page(0x02, 'Disconnect-Reconnect', 16),
  page(0x08, 'Caching', 20, {}, [{ byte: 2, mask: 0x04, bit: ModeBit.WCE, changeable: (lun) => lun.info.writeCache }]),
  page(
    0x0a,
    'Control',
    12,
    {
      2: 0x02, // GLTSD: log parameters are not saved
      3: 0x10, // QUEUE ALGORITHM MODIFIER 1: unrestricted reordering
      8: 0xff, // BUSY TIMEOUT PERIOD: unlimited
      9: 0xff,
    },
    [
      { byte: 2, mask: 0x04, bit: ModeBit.D_SENSE, changeable: always },
      { byte: 4, mask: 0x08, bit: ModeBit.SWP, changeable: always },
    ],
  ),
  subpage(0x0a, 0x01, 'Control Extension', 32),
  page(0x1a, 'Power Condition', 40),
  page(0x1c, 'Informational Exceptions Control', 12, { 2: 0x08 }), // DEXCPT: none are reported
];

/** MODE SENSE's page control. */
export const PageControl = { CURRENT: 0, CHANGEABLE: 1, DEFAULT: 2, SAVED: 3 } as const;

/** Byte `at` of a page as one of its sets of values shows it. */
export function modeByte(lun: Lun, p: ModePage, at: number, control: number, mode: number): number {
  let value = control === PageControl.CHANGEABLE && at >= (p.subpage === 0 ? 2 : 4) ? 0 : p.bytes[at];
  for (const f of p.fields) {
    if (f.byte !== at) continue;
    if (control === PageControl.CHANGEABLE) value |= f.changeable(lun) ? f.mask : 0;
    else if (((control === PageControl.DEFAULT ? lun.defaultMode : mode) & f.bit) !== 0) value |= f.mask;
  }
  return value;
}

/** The pages that a MODE SENSE asks for. Empty: there are none such. */
export function selectPages(code: number, sub: number): readonly ModePage[] {
  if (sub !== 0x00 && sub !== 0xff && code === 0x3f) return [];
  return MODE_PAGES.filter((p) => (code === 0x3f || p.page === code) && (sub === 0xff || p.subpage === sub));
}
