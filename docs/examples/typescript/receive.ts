// Receives webhooks: verifies and stores each one, responds, and then processes it.
//
// WEBHOOK_SECRET  the signing secret of the sender (whsec_…)
// INBOX           the folder for the webhooks [inbox]
// PORT            the port to listen on, or 0 for a free port [9002]

import { randomUUID } from 'node:crypto';
import { link, mkdir, readFile, readdir, unlink, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';

import { Webhook } from 'standardwebhooks';

const MAX_BODY_BYTES = 1024 * 1024;

const verifier = new Webhook(process.env.WEBHOOK_SECRET ?? '');
const inbox = process.env.INBOX ?? 'inbox';

/** Reads the raw bytes. The signature does not match reserialized JSON. */
async function read(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

function verifies(body: Buffer, headers: Record<string, string>): boolean {
  try {
    verifier.verify(body, headers, { jsonParse: false });
    return true;
  } catch {
    return false;
  }
}

/** Stores a webhook atomically. Returns false for a duplicate. */
async function store(webhookId: string, body: Buffer): Promise<boolean> {
  const part = join(inbox, `.${randomUUID()}`);
  await writeFile(part, body);
  try {
    await link(part, join(inbox, `${webhookId}.json`));
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  } finally {
    await unlink(part);
  }
}

/** Processes a webhook. After a crash, it can be processed again. */
async function handle(webhookId: string): Promise<void> {
  const body = await readFile(join(inbox, `${webhookId}.json`));
  console.log(`handled ${webhookId}: ${body.length} bytes`); // your code
  await writeFile(join(inbox, `${webhookId}.done`), '');
}

/** Returns the response status, and the ID of a new webhook to process. */
async function receive(request: IncomingMessage): Promise<{ status: number; fresh?: string }> {
  if (!(Number(request.headers['content-length']) <= MAX_BODY_BYTES)) return { status: 413 };
  const body = await read(request);
  if (request.method !== 'POST' || !verifies(body, request.headers as Record<string, string>))
    return { status: 401 };
  const webhookId = request.headers['webhook-id'] as string;
  return { status: 204, fresh: (await store(webhookId, body)) ? webhookId : undefined };
}

await mkdir(inbox, { recursive: true });
const names = new Set(await readdir(inbox));
for (const name of names) {
  const webhookId = name.replace(/\.json$/, '');
  if (webhookId !== name && !names.has(`${webhookId}.done`)) await handle(webhookId);
}
const server = createServer((request, response) => {
  receive(request)
    .then(({ status, fresh }) => {
      response.writeHead(status, { 'content-length': 0 }).end();
      if (fresh !== undefined) return handle(fresh);
    })
    .catch((error: unknown) => {
      console.error(error);
      if (!response.headersSent) response.writeHead(500).end(); // not stored: the sender retries
    });
});
server.listen(Number(process.env.PORT ?? '9002'), '127.0.0.1', () => {
  console.log(`listening at http://127.0.0.1:${(server.address() as AddressInfo).port}`);
});
