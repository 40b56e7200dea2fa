// No-op tasks on graphile-worker: handlers in this process, tasks in PostgreSQL. Prints one JSON line.
// Arguments: where node_modules is, the database, how many tasks, `one` (each is fetched and completed by itself) or `many`.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
const [modules, connectionString, count, how] = process.argv.slice(2);
const { run, makeWorkerUtils, Logger } = createRequire(`${modules}/`)('graphile-worker');
const tasks = Number(count);
// Added so many at once either way, from so many connections: one call a task is slower by far.
const batch = 1000, CALLS_AT_ONCE = 4;
const quiet = new Logger(() => () => {});

let done = 0, told;
const all = new Promise((resolve) => { told = resolve; });
const noop = async () => { if (++done === tasks + 1) told(); };
const utils = await makeWorkerUtils({ connectionString, logger: quiet });
await utils.migrate();
const worker = { concurrentJobs: 24, pollInterval: 50, maxPoolSize: 24, connectionString };
// What its makers offer for throughput: jobs are fetched and completed by many.
if (how === 'many') Object.assign(worker, { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 });
const runner = await run({ logger: quiet, taskList: { noop }, noHandleSignals: true, preset: { worker } });
await utils.addJob('noop', { warm: true });
while (done < 1) await new Promise((resolve) => setTimeout(resolve, 5));

const began = process.hrtime.bigint();
let next = 0;
await Promise.all(Array.from({ length: CALLS_AT_ONCE }, async () => {
  while (next < tasks) {
    const size = Math.min(batch, tasks - next);
    next += size;
    await utils.addJobs(Array.from({ length: size }, (_, n) => ({ identifier: 'noop', payload: { n } })));
  }
}));
await all;
// Done is what the database has let go of.
for (;;) {
  const left = await utils.withPgClient((client) => client.query('SELECT count(*)::int AS n FROM graphile_worker.jobs'));
  if (left.rows[0].n === 0) break;
  await new Promise((resolve) => setTimeout(resolve, 2));
}
const seconds = Number(process.hrtime.bigint() - began) / 1e9;
await runner.stop();
await utils.release();
const { version } = JSON.parse(readFileSync(`${modules}/node_modules/graphile-worker/package.json`));
console.log(JSON.stringify({ done: done - 1, seconds, version }));
process.exit(0);
