// RSA blind signatures by @cloudflare/blindrsa-ts. Question: [{op, variant, ...}], bytes in hex; answer: a list.
import { webcrypto } from "node:crypto";
import { RSABSSA } from "@cloudflare/blindrsa-ts";

const VARIANTS = {
  "RSABSSA-SHA384-PSS-Randomized": RSABSSA.SHA384.PSS.Randomized,
  "RSABSSA-SHA384-PSSZERO-Randomized": RSABSSA.SHA384.PSSZero.Randomized,
  "RSABSSA-SHA384-PSS-Deterministic": RSABSSA.SHA384.PSS.Deterministic,
  "RSABSSA-SHA384-PSSZERO-Deterministic": RSABSSA.SHA384.PSSZero.Deterministic,
};
const ALGORITHM = { name: "RSA-PSS", hash: "SHA-384" };
const bytes = (hex) => new Uint8Array(Buffer.from(hex, "hex"));
const hex = (data) => Buffer.from(data).toString("hex");
const publicKey = (q) => webcrypto.subtle.importKey("spki", bytes(q.spki), ALGORITHM, true, ["verify"]);
const privateKey = (q) => webcrypto.subtle.importKey("pkcs8", bytes(q.pkcs8), ALGORITHM, true, ["sign"]);

const OPERATIONS = {
  async blind(suite, q) {
    const prepared = suite.prepare(bytes(q.message));
    const { blindedMsg, inv } = await suite.blind(await publicKey(q), prepared);
    return { prepared: hex(prepared), blinded: hex(blindedMsg), inv: hex(inv) };
  },
  async sign(suite, q) {
    return hex(await suite.blindSign(await privateKey(q), bytes(q.blinded)));
  },
  async finalize(suite, q) {
    const key = await publicKey(q);
    return hex(await suite.finalize(key, bytes(q.prepared), bytes(q.signed), bytes(q.inv)));
  },
  async verify(suite, q) {
    return suite.verify(await publicKey(q), bytes(q.signature), bytes(q.prepared));
  },
};

let input = "";
for await (const part of process.stdin) input += part;
const answers = [];
for (const question of JSON.parse(input)) {
  try {
    answers.push(await OPERATIONS[question.op](VARIANTS[question.variant](), question));
  } catch (error) {
    answers.push({ error: String(error) });
  }
}
process.stdout.write(JSON.stringify(answers));
