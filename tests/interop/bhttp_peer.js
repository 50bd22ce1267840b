// Binary HTTP by bhttp-js. Question: [{op: "decode", kind, hex} | {op: "encode", kind, message}];
// answer: the message, the hex, or {error}.
import { BHttpDecoder, BHttpEncoder } from "bhttp-js";

const hex = (bytes) => Buffer.from(bytes).toString("hex");

async function decode({ kind, hex: data }) {
  const decoder = new BHttpDecoder();
  const bytes = new Uint8Array(Buffer.from(data, "hex"));
  if (kind === "request") {
    const request = decoder.decodeRequest(bytes);
    const url = new URL(request.url);
    return {
      method: request.method,
      scheme: url.protocol.slice(0, -1),
      authority: url.host,
      path: url.pathname + url.search,
      headers: [...request.headers],
      content: hex(await request.arrayBuffer()),
    };
  }
  const response = decoder.decodeResponse(bytes);
  return {
    status: response.status,
    headers: [...response.headers],
    content: hex(await response.arrayBuffer()),
  };
}

async function encode({ kind, message }) {
  const body = message.content ? Buffer.from(message.content, "hex") : undefined;
  const encoder = new BHttpEncoder();
  if (kind === "request") {
    const url = `${message.scheme}://${message.authority}${message.path}`;
    return hex(
      await encoder.encodeRequest(
        new Request(url, { method: message.method, headers: message.headers, body }),
      ),
    );
  }
  return hex(
    await encoder.encodeResponse(new Response(body, { status: message.status, headers: message.headers })),
  );
}

let input = "";
for await (const part of process.stdin) input += part;
const answers = [];
for (const question of JSON.parse(input)) {
  try {
    answers.push(await (question.op === "decode" ? decode : encode)(question));
  } catch (error) {
    answers.push({ error: String(error) });
  }
}
process.stdout.write(JSON.stringify(answers));
