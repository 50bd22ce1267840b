// HPKE by @hpke/core. Question: [{op: "seal", kem, kdf, aead, publicKey, info, messages: [{pt, aad}], exportContext, L}
// | {op: "open", ..., privateKey, enc, messages: [{ct, aad}]}]; answer: {enc, messages, exported} or {error}.
import { Chacha20Poly1305 } from "@hpke/chacha20poly1305";
import {
  Aes128Gcm,
  Aes256Gcm,
  CipherSuite,
  DhkemP256HkdfSha256,
  DhkemX25519HkdfSha256,
  HkdfSha256,
  HkdfSha512,
} from "@hpke/core";
import { XWing } from "@hpke/hybridkem-x-wing";

const KEMS = { 0x0010: DhkemP256HkdfSha256, 0x0020: DhkemX25519HkdfSha256, 0x647a: XWing };
const KDFS = { 1: HkdfSha256, 3: HkdfSha512 };
const AEADS = { 1: Aes128Gcm, 2: Aes256Gcm, 3: Chacha20Poly1305 };

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const bytes = (text) => {
  const buffer = Buffer.from(text, "hex");
  return buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.length);
};

async function converse(question) {
  const suite = new CipherSuite({
    kem: new KEMS[question.kem](),
    kdf: new KDFS[question.kdf](),
    aead: new AEADS[question.aead](),
  });
  const psk = question.psk ? { psk: { key: bytes(question.psk), id: bytes(question.pskId) } } : {};
  const info = bytes(question.info);
  if (question.op === "seal") {
    const recipientPublicKey = await suite.kem.deserializePublicKey(bytes(question.publicKey));
    const sender = await suite.createSenderContext({ recipientPublicKey, info, ...psk });
    const messages = [];
    for (const { pt, aad } of question.messages) messages.push(hex(await sender.seal(bytes(pt), bytes(aad))));
    const exported = hex(await sender.export(bytes(question.exportContext), question.L));
    return { enc: hex(sender.enc), messages, exported };
  }
  const recipientKey = await suite.kem.deserializePrivateKey(bytes(question.privateKey));
  const recipient = await suite.createRecipientContext({
    recipientKey,
    enc: bytes(question.enc),
    info,
    ...psk,
  });
  const messages = [];
  for (const { ct, aad } of question.messages) messages.push(hex(await recipient.open(bytes(ct), bytes(aad))));
  return { messages, exported: hex(await recipient.export(bytes(question.exportContext), question.L)) };
}

let input = "";
for await (const part of process.stdin) input += part;
const answers = [];
for (const question of JSON.parse(input)) {
  try {
    answers.push(await converse(question));
  } catch (error) {
    answers.push({ error: String(error) });
  }
}
process.stdout.write(JSON.stringify(answers));
