import { JSONRPCErrorException } from 'json-rpc-2.0';
import { ERRNO, isErrnoName } from '../target/errors.ts';

/**
 * What goes wrong, in JSON-RPC's terms. Codes are SPDK's: JSON-RPC's own numbers, -1 for "not in this state", and
 * negative errno for what the target refuses. The message starts with SPDK's text and then says what to do.
 */

export const RpcCode = {
  PARSE_ERROR: -32700,
  INVALID_REQUEST: -32600,
  METHOD_NOT_FOUND: -32601,
  INVALID_PARAMS: -32602,
  INTERNAL_ERROR: -32603,
  INVALID_STATE: -1,
} as const;

export class RpcError extends JSONRPCErrorException {
  constructor(code: number, message: string) {
    super(message, code);
    // The base class resets the prototype to its own.
    Object.setPrototypeOf(this, RpcError.prototype);
    this.name = 'RpcError';
  }
}

export interface RpcErrorBody {
  code: number;
  message: string;
}

/**
 * Any failure as the "error" member. An Error that carries errno's name (a TargetError, or a system call's) becomes
 * its negative number; anything else is a defect of ours and INTERNAL_ERROR.
 */
export function errorBody(error: unknown): RpcErrorBody {
  if (error instanceof JSONRPCErrorException) return { code: error.code, message: error.message };
  const message = inRpcWords(error);
  const code = (error as { code?: unknown } | null)?.code;
  if (isErrnoName(code)) {
    const [number, text] = ERRNO[code];
    return {
      code: -number,
      message: message.toLowerCase().includes(text.toLowerCase()) ? message : `${text}: ${message}`,
    };
  }
  const errno = (error as { errno?: unknown } | null)?.errno;
  if (typeof errno === 'number' && Number.isInteger(errno) && errno !== 0) return { code: -Math.abs(errno), message };
  return { code: RpcCode.INTERNAL_ERROR, message: `Internal error: ${message}` };
}

/** The message, with the option that is wrong (a disk's `numBlocks`) by the name of its parameter (`num_blocks`). */
function inRpcWords(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { option } = error as { option?: unknown };
  if (typeof option !== 'string') return error.message;
  return error.message.replaceAll(
    option,
    option.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
  );
}
