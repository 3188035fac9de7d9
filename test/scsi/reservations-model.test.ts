import { LunState } from '../../src/scsi/lun-state.ts';
import { budget, fc } from '../support/property.ts';
import { assert, suite } from '../support/suite.ts';
import { blocks } from './support/case.ts';
import { prList, prOutCdb, rangeCdb } from './support/cdb.ts';
import { Unit } from './support/unit.ts';

/**
 * Persistent reservations against a second, plain reading of SPC-4 5.13: any sequence of service actions by three
 * nexuses over two controllers gives the same statuses, keys, reservation, attentions and accesses.
 */

const test = suite('scsi: reservations against a model');

const CONFLICT = 'conflict';
const TYPES = [1, 3, 5, 6, 7, 8];

/** The second reading: who is registered with what, and who holds. */
class Model {
  keys = new Map<number, number>();
  type = 0;
  holder = -1;
  attentions: Set<string>[] = [new Set(), new Set(), new Set()];

  get all(): boolean {
    return this.type >= 7;
  }

  holds(n: number): boolean {
    return this.type !== 0 && this.keys.has(n) && (this.all || this.holder === n);
  }

  private tell(except: number, what: string): void {
    for (const n of this.keys.keys()) if (n !== except) this.attentions[n].add(what);
  }

  private release(by: number): void {
    const told = this.type >= 5;
    this.type = 0;
    this.holder = -1;
    if (told) this.tell(by, '06/2a/04');
  }

  act(action: number, n: number, key: number, other: number, type: number): string {
    const mine = this.keys.get(n);
    if (action === 0 || action === 6) {
      if (action === 0 && (mine ?? 0) !== key) return CONFLICT;
      if (other !== 0) this.keys.set(n, other);
      else if (mine !== undefined) {
        const held = this.holds(n);
        this.keys.delete(n);
        if (held && (!this.all || this.keys.size === 0)) this.release(n);
      }
      return '';
    }
    if (mine === undefined || mine !== key) return CONFLICT;
    if (action === 1) {
      if (this.type !== 0) return this.holds(n) && this.type === type ? '' : CONFLICT;
      this.type = type;
      this.holder = n;
      return '';
    }
    if (action === 2) {
      if (!this.holds(n)) return '';
      if (this.type !== type) return '05/26/04';
      this.release(n);
      return '';
    }
    if (action === 3) {
      this.tell(n, '06/2a/03');
      this.keys.clear();
      this.type = 0;
      this.holder = -1;
      return '';
    }
    // PREEMPT, PREEMPT AND ABORT
    const all = this.all;
    if (other === 0 && !all) return '05/26/00';
    const over = all ? other === 0 : this.type !== 0 && this.keys.get(this.holder) === other;
    const victims = [...this.keys].filter(([v, k]) => (over ? v !== n : true) && (other === 0 || k === other));
    if (!over && victims.length === 0) return CONFLICT;
    for (const [v] of victims) {
      this.keys.delete(v);
      if (v !== n) this.attentions[v].add('06/2a/05');
    }
    if (over) {
      if (type !== this.type) this.tell(n, '06/2a/04');
      this.type = type;
      this.holder = n;
    } else if (all && this.keys.size === 0) this.type = 0;
    return '';
  }

  /** [may read, may write] */
  access(n: number): [boolean, boolean] {
    if (this.type === 0 || this.holds(n) || (this.type >= 5 && this.keys.has(n))) return [true, true];
    return [[1, 5, 7].includes(this.type), false];
  }
}

const step = fc.record({
  action: fc.constantFrom(0, 0, 1, 2, 3, 4, 4, 5, 6, 6),
  nexus: fc.nat(2),
  key: fc.nat(3),
  other: fc.nat(3),
  type: fc.constantFrom(...TYPES),
  /** Use the key that the nexus has, as a real initiator would. */
  honest: fc.boolean(),
});

test('any sequence', () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
      const state = new LunState();
      // Nexuses 0 and 1 come through one controller, 2 through another.
      const one = new Unit({ numBlocks: 8 }, { state });
      const two = new Unit({ numBlocks: 8 }, { state, relativePort: 2 });
      const of = (n: number) => (n < 2 ? { unit: one, nexus: n } : { unit: two, nexus: 0 });
      const run = (n: number, cdb: string, out: string | Uint8Array = '') =>
        of(n).unit.run(cdb, out, { nexus: of(n).nexus, ...(out === '' && { room: 1024 }) });
      for (const n of [0, 1, 2]) run(n, '00 00 00 00 00 00');
      const model = new Model();
      for (const s of steps) {
        const key = s.honest ? (model.keys.get(s.nexus) ?? 0) : s.key;
        const r = run(s.nexus, prOutCdb(s.action, s.type), prList(key, s.other));
        const expected = model.act(s.action, s.nexus, key, s.other, s.type);
        assert.is(r.status === 0x18 ? CONFLICT : r.sense, expected);
        for (const n of [0, 1, 2]) {
          const told = new Set<string>();
          for (let sense = run(n, '00 00 00 00 00 00').sense; sense !== ''; sense = run(n, '00 00 00 00 00 00').sense) {
            told.add(sense);
          }
          assert.equal([...told].sort(), [...model.attentions[n]].sort());
          model.attentions[n].clear();
          const access = [run(n, rangeCdb(0x28, 0, 1)), run(n, rangeCdb(0x2a, 0, 1), blocks(1, 1))].map(
            (x) => x.status,
          );
          assert.equal(
            access,
            model.access(n).map((may) => (may ? 0 : 0x18)),
          );
        }
        const { dataIn } = run(0, '5e 00 00 00 00 00 00 04 00 00');
        const keys = [...dataIn.subarray(8)].filter((_, i) => i % 8 === 7);
        assert.equal(keys.sort(), [...model.keys.values()].sort());
        const reservation = run(0, '5e 01 00 00 00 00 00 04 00 00').dataIn;
        assert.is(reservation.length === 8 ? 0 : reservation[21], model.type);
        if (model.type !== 0) assert.is(reservation[15], model.all ? 0 : (model.keys.get(model.holder) ?? 0));
      }
    }),
    budget(300),
  );
});

test.run();
