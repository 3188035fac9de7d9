/**
 * Layouts of structures that other agents read or write, declared once as tables: offsets, the dump and the check
 * against the spec's size all come from the table. Control path only; a hot path takes its offsets from here once.
 */

/** Width of a field. All little-endian; `bytes` is an array whose length is the row's third element. */
export type FieldKind = 'u8' | 'u16' | 'u32' | 'u64' | 'bytes';

/** [byte offset, kind, length in bytes (kind `bytes` only)] */
export type Field = readonly [offset: number, kind: FieldKind, length?: number];

export interface StructTable<F extends Record<string, Field> = Record<string, Field>> {
  /** The spec's name of it. */
  readonly name: string;
  /** Where the spec defines it. */
  readonly spec: string;
  /** Bytes. */
  readonly size: number;
  readonly fields: F;
}

const WIDTH = { u8: 1, u16: 2, u32: 4, u64: 8 } as const;

function widthOf(field: Field): number {
  return field[1] === 'bytes' ? (field[2] ?? 0) : WIDTH[field[1]];
}

/**
 * Declare a structure. Fields are listed in order and cover every byte: a slip in an offset or a forgotten field is
 * an error when the module is loaded, not a wrong byte in a guest.
 * @throws Error that names the field.
 */
export function defineStruct<const F extends Record<string, Field>>(
  name: string,
  spec: string,
  size: number,
  fields: F,
): StructTable<F> {
  let at = 0;
  for (const [key, field] of Object.entries<Field>(fields)) {
    if (field[0] !== at) throw new Error(`${name}.${key} (${spec}): offset ${field[0]}, expected ${at}`);
    const width = widthOf(field);
    if (width === 0) throw new Error(`${name}.${key} (${spec}): no length`);
    at += width;
  }
  if (at !== size) throw new Error(`${name} (${spec}): fields cover ${at} bytes of ${size}`);
  return Object.freeze({ name, spec, size, fields });
}

/** One line that shows the structure at `offset` of a private copy: `virtq_desc{addr=0x1000 len=0x10 …}`. */
export function formatStruct(table: StructTable, view: DataView, offset = 0): string {
  const parts = Object.entries(table.fields).map(([key, field]) => `${key}=${formatField(field, view, offset)}`);
  return `${table.name}{${parts.join(' ')}}`;
}

function formatField(field: Field, view: DataView, offset: number): string {
  const at = offset + field[0];
  switch (field[1]) {
    case 'u8':
      return `0x${view.getUint8(at).toString(16)}`;
    case 'u16':
      return `0x${view.getUint16(at, true).toString(16)}`;
    case 'u32':
      return `0x${view.getUint32(at, true).toString(16)}`;
    case 'u64':
      return `0x${view.getBigUint64(at, true).toString(16)}`;
    case 'bytes':
      return Buffer.from(view.buffer, view.byteOffset + at, field[2]).toString('hex');
  }
}
