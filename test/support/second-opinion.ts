/**
 * The C library once more, through ffi-rs: another FFI, by other people. Tests call a function through both and compare.
 * It is far too slow for more.
 */
import { DataType, load, open } from 'ffi-rs';

open({ library: 'c', path: 'libc.so.6' });

/** One letter a type: i int, I unsigned int, l long or an address as Number, s string, b bytes (Buffer), v void. */
const TYPES = {
  i: DataType.I32,
  I: DataType.U32,
  l: DataType.I64,
  s: DataType.String,
  b: DataType.U8Array,
  v: DataType.Void,
} as const;
export type Letter = keyof typeof TYPES;

export interface Opinion {
  readonly value: number;
  /** errno; means something when value is -1 */
  readonly errno: number;
}

/**
 * Call a C function. @param types of the arguments, then '>' and that of the result: 'sii>i'
 */
export function secondOpinion(name: string, types: string, ...args: unknown[]): Opinion {
  const [params, result] = types.split('>');
  const answer = load({
    library: 'c',
    funcName: name,
    retType: TYPES[result as Letter],
    paramsType: [...params].map((letter) => TYPES[letter as Letter]),
    paramsValue: args.map((arg, i) => (params[i] === 'b' ? bufferOf(arg as ArrayBufferView) : arg)),
    errno: true,
  }) as unknown as { value: number; errnoCode: number };
  return { value: Number(answer.value ?? 0), errno: answer.errnoCode };
}

/** The same bytes as a Buffer, not a copy. */
function bufferOf(view: ArrayBufferView): Buffer {
  return Buffer.from(view.buffer, view.byteOffset, view.byteLength);
}
