/** What a VM printed on its console, line by line, with the seconds since the VM was started. */

export class ConsoleLog {
  readonly lines: string[] = [];
  readonly #started = performance.now();
  readonly #watchers: { pattern: RegExp; found: (line: string) => void }[] = [];
  #rest = '';

  add(chunk: Buffer): void {
    const parts = (this.#rest + chunk.toString('latin1')).split(/\r*\n/);
    this.#rest = parts.pop() ?? '';
    for (const text of parts) {
      const seconds = ((performance.now() - this.#started) / 1000).toFixed(1);
      this.lines.push(`[${seconds.padStart(6)}] ${text}`);
      for (const { pattern, found } of this.#watchers) if (pattern.test(text)) found(text);
    }
  }

  /** Calls back at each later line that matches. */
  watch(pattern: RegExp, found: (line: string) => void): void {
    this.#watchers.push({ pattern, found });
  }

  tail(count = 40): string {
    const shown = this.lines.slice(-count);
    if (this.#rest !== '') shown.push(this.#rest);
    return shown.length === 0 ? '(the console printed nothing)' : shown.join('\n');
  }
}
