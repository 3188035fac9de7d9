/**
 * Parameters that SPDK's scripts send whether anybody asked for them or not. Their neutral values (false, 0, none) ask for
 * nothing and are taken; any other value asks for something that is not here, and is refused in words.
 */
const NEVER: Readonly<Record<string, string>> = {
  md_size: 'metadata beside the blocks',
  md_interleave: 'metadata within the blocks',
  dif_type: 'T10 protection information',
  dif_is_head_of_md: 'T10 protection information',
  dif_pi_format: 'T10 protection information',
  optimal_io_boundary: 'an I/O boundary',
  preferred_write_alignment: 'preferred write sizes',
  preferred_write_granularity: 'preferred write sizes',
  optimal_write_size: 'preferred write sizes',
  preferred_unmap_alignment: 'preferred unmap sizes',
  preferred_unmap_granularity: 'preferred unmap sizes',
  nowait: 'RWF_NOWAIT',
  with_batches: 'batches of methods',
  prchk_reftag: 'T10 protection information',
  prchk_guard: 'T10 protection information',
  hdgst: 'digests of NVMe over TCP',
  ddgst: 'digests of NVMe over TCP',
  packed_ring: 'packed rings',
  packed_ring_recovery: 'packed rings',
};

function isNeutral(value: unknown): boolean {
  return value === false || value === 0 || value === '' || (Array.isArray(value) && value.length === 0);
}

/**
 * Take SPDK's neutral parameters out of what was given.
 * @param known what the method's own schema has: never touched
 * @returns what is left, and a sentence for each that asks for something we do not have
 */
export function dropNeutral(
  given: Record<string, unknown>,
  known: readonly string[],
): { rest: Record<string, unknown>; refused: string[] } {
  const refused: string[] = [];
  const kept = Object.entries(given).filter(([name, value]) => {
    if (known.includes(name) || !Object.hasOwn(NEVER, name)) return true;
    if (!isNeutral(value)) refused.push(`"${name}" asks for ${NEVER[name]}, which is not supported: leave it out`);
    return false;
  });
  return { rest: Object.fromEntries(kept), refused }; // fromEntries: a key "__proto__" stays a key
}
